"""A record per operation: every face (CLI, MCP, TUI) is generated from or checked against this list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpumod.domain.base import Frozen
from gpumod.operations import adoption_params as ap
from gpumod.operations import adoption_results as ar
from gpumod.operations import box_results as b
from gpumod.operations import lease_results as leases
from gpumod.operations import params as p
from gpumod.operations import plugin_results as pl
from gpumod.operations import results as r
from gpumod.operations import unit_results as u
from gpumod.operations import use_results as use
from gpumod.operations import watch_results as w


@dataclass(frozen=True)
class Operation:
    """`name` is the method of :class:`gpumod.operations.gpumod.Gpumod`; `effect` what it may do to the machine:
    `read` nothing, `plan` store something of gpumod's own, `change` processes and memory. `follows`: it takes
    `progress`, as every change does, though it changes nothing."""

    name: str
    params: type[Frozen]
    result: type[Frozen]
    effect: Literal["read", "plan", "change"]
    follows: bool = False


OPERATIONS: tuple[Operation, ...] = (
    Operation("init", p.InitParams, r.InitResult, "plan"),
    Operation("status", p.NoParams, r.StatusResult, "read"),
    Operation("ps", p.NoParams, r.PsResult, "read"),
    Operation("doctor", p.NoParams, r.DoctorResult, "read"),
    Operation("plugins", p.NoParams, r.PluginsResult, "read"),
    Operation("plugins_check", pl.PluginCheck, pl.PluginCheckResult, "plan"),
    Operation("plugins_new", pl.PluginNew, pl.PluginNewResult, "plan"),
    Operation("mode_list", p.NoParams, r.ModeListResult, "read"),
    Operation("mode_show", p.ModeRef, r.ModeResult, "read"),
    Operation("mode_status", p.ModeRef, r.ModeStatusResult, "read"),
    Operation("mode_verify", p.ModeRef, r.ModeStatusResult, "read"),
    Operation("mode_create", p.ModeWrite, r.ModeResult, "plan"),
    Operation("mode_edit", p.ModeWrite, r.ModeResult, "plan"),
    Operation("mode_delete", p.ModeDelete, r.DeletedResult, "plan"),
    Operation("switch", p.SwitchParams, r.ChangeResult, "change"),
    Operation("service_list", p.NoParams, r.ServiceListResult, "read"),
    Operation("service_show", p.ServiceRef, r.ServiceResult, "read"),
    Operation("service_status", p.ServiceRef, r.ServiceStatus, "read"),
    Operation("service_add", p.ServiceWrite, r.ServiceResult, "plan"),
    Operation("service_edit", p.ServiceWrite, r.ServiceResult, "plan"),
    Operation("service_remove", p.ServiceRemove, r.DeletedResult, "change"),
    Operation("service_start", p.ServiceChange, r.ChangeResult, "change"),
    Operation("service_stop", p.ServiceChange, r.ChangeResult, "change"),
    Operation("service_restart", p.ServiceChange, r.ChangeResult, "change"),
    Operation("service_sleep", p.ServiceChange, r.ChangeResult, "change"),
    Operation("service_wake", p.ServiceChange, r.ChangeResult, "change"),
    Operation("auto_sleep_idle", use.SleepIdleParams, use.SleepIdleResult, "change"),
    Operation("service_turn", use.TurnParams, use.TurnResult, "change"),
    Operation("service_logs", p.LogsParams, r.LogsResult, "read"),
    Operation("service_adopt", ap.AdoptParams, ar.AdoptResult, "plan"),
    Operation("service_release", ap.ReleaseParams, ar.ReleaseResult, "plan"),
    Operation("import_llama_swap", ap.ImportFile, ar.ImportResult, "plan"),
    Operation("import_ollama", ap.ImportOllama, ar.ImportResult, "plan"),
    Operation("service_unit", p.UnitParams, u.UnitResult, "plan"),
    Operation("secret_list", p.ServiceRef, u.SecretsResult, "read"),
    Operation("secret_set", p.SecretWrite, u.SecretsResult, "plan"),
    Operation("secret_remove", p.SecretRef, u.SecretsResult, "plan"),
    Operation("template_list", p.NoParams, u.TemplateListResult, "read"),
    Operation("template_show", p.TemplateRef, u.TemplateResult, "read"),
    Operation("template_render", p.TemplateRender, u.UnitResult, "read"),
    Operation("template_edit", p.TemplateEdit, u.TemplateResult, "plan"),
    Operation("simulate", p.SimulateParams, r.SimulateResult, "plan"),
    Operation("preset_list", p.NoParams, r.PresetListResult, "read"),
    Operation("preset_show", p.PresetRef, r.PresetResult, "read"),
    Operation("preset_load", p.PresetLoad, r.PresetLoadResult, "plan"),
    Operation("preset_validate", p.PresetValidate, r.PresetValidateResult, "read"),
    Operation("history_list", p.ListParams, r.HistoryListResult, "read"),
    Operation("history_show", p.RunRef, r.HistoryResult, "read", follows=True),
    Operation("simulations", p.ListParams, r.SimulationsResult, "read"),
    Operation("recover", p.RecoverParams, r.RecoverResult, "change"),
    Operation("export", p.NoParams, b.ExportResult, "read"),
    Operation("diff", p.DiffParams, b.DiffResult, "read"),
    Operation("apply", p.ApplyParams, b.ApplyResult, "change"),
    Operation("watch", w.WatchParams, w.WatchResult, "change"),
    Operation("free", p.FreeParams, leases.FreeResult, "change"),
    Operation("settings_list", p.NoParams, r.SettingsResult, "read"),
    Operation("settings_get", p.SettingRef, r.SettingRow, "read"),
    Operation("settings_set", p.SettingWrite, r.SettingRow, "plan"),
)
