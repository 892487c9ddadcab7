"""What comes out of each operation: what `--json` prints and what the human views render."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.footprint import Footprint
from gpumod.domain.mode import Mode
from gpumod.domain.plan import Plan
from gpumod.domain.run import Event, Run, RunStatus
from gpumod.domain.service import Service
from gpumod.operations.adoption_results import FolderRow, ProgramRow, Proposal


class InitResult(Frozen):
    """`proposals` are what was found on a real machine, `taken` the services that they became; of those that are
    `counted_as_nothing` nobody knows yet what they take."""

    home: str
    created: tuple[str, ...]
    settings: Mapping[str, str]
    services: tuple[str, ...]
    modes: tuple[str, ...]
    gpus: tuple[str, ...] = ()
    problems: tuple[ErrorInfo, ...] = ()
    next: tuple[str, ...] = ()
    programs: tuple[ProgramRow, ...] = ()
    model_folders: tuple[FolderRow, ...] = ()
    units: Mapping[str, int] = {}
    proposals: tuple[Proposal, ...] = ()
    taken: tuple[str, ...] = ()
    counted_as_nothing: tuple[str, ...] = ()


class GpuStatus(Frozen):
    """`per_process` is False where the driver does not tell what each process holds. `fault`: it cannot be used."""

    index: int
    name: str
    total_mb: int
    used_mb: int
    free_mb: int
    reserve_mb: int
    foreign_mb: int
    uuid: str = ""
    architecture: str = ""
    compute_capability: str = ""
    per_process: bool = True
    fault: ErrorInfo | None = None


class ServiceStatus(Frozen):
    """`vram_mb` is what it holds now, `source` where that number comes from: told by process, or the device's
    difference. `adopted` says what it was adopted from (None: it is gpumod's own). `drift` names the fields whose
    definition differs from what runs, or is `unit` where its systemd unit alone does, and `altered` the alternative
    that made it so, where one did."""

    id: str
    driver: str
    state: str
    vram_mb: int
    sleep_level: str | None
    health_ok: bool | None
    uptime_seconds: float | None
    port: int | None
    pid: int | None
    last_error: str | None
    name: str = ""
    gpus: tuple[int, ...] = ()
    vram_by_gpu: Mapping[int, int] = {}
    source: Literal["process", "device"] = "process"
    declared_mb: int = 0
    drift: tuple[str, ...] = ()
    altered: str = ""
    in_mode: bool = False
    adopted: str | None = None


class ForeignProcess(Frozen):
    pid: int | None
    name: str
    vram_mb: int | None
    gpu: int


class LeaseRow(Frozen):
    """Memory held for somebody: `vram_mb` of `gpu`, of which `used_mb` are taken. `until` and `since` are seconds since
    the epoch; `pid` is the process with which it ends. `in_words` says all that."""

    id: str
    holder: str
    gpu: int
    vram_mb: int
    used_mb: int
    since: float
    until: float | None
    pid: int | None
    in_words: str


class StatusResult(Frozen):
    """`alternative` is the id of the one with which the mode was taken. `open_run` is a run that was left half-way:
    `gpumod recover` closes it. `put_back` says what was put away for a lease that is over, and how it comes back.
    `turns` says who has a turn with a service, and who waits for one, in the order of asking."""

    mode: str | None
    gpus: tuple[GpuStatus, ...]
    services: tuple[ServiceStatus, ...]
    foreign: tuple[ForeignProcess, ...]
    previous_mode: str | None = None
    alternative: str | None = None
    ram_total_mb: int = 0
    ram_available_mb: int = 0
    open_run: str | None = None
    busy: str | None = None
    leases: tuple[LeaseRow, ...] = ()
    put_back: str = ""
    turns: tuple[str, ...] = ()
    problems: tuple[ErrorInfo, ...] = ()


class PsRow(Frozen):
    """One process: of a service or foreign, with what it holds on a GPU (None: the driver does not tell)."""

    pid: int
    name: str
    service: str | None
    gpu: int | None
    vram_mb: int | None


class PsResult(Frozen):
    processes: tuple[PsRow, ...]
    leases: tuple[LeaseRow, ...] = ()


class Check(Frozen):
    """`unknown` is what could not be looked at, or cannot be told from here."""

    name: str
    level: Literal["ok", "unknown", "warning", "problem"]
    message: str
    hint: str = ""


class DoctorResult(Frozen):
    """`ok` is true when there is no problem and no warning."""

    ok: bool
    checks: tuple[Check, ...]


class PluginRow(Frozen):
    """`error` says why it offers nothing, `disabled` which variable keeps it out, `problems` what single offers were
    refused and why."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]
    offers: tuple[str, ...]
    error: ErrorInfo | None = None
    disabled: str = ""
    problems: tuple[ErrorInfo, ...] = ()


class PluginsResult(Frozen):
    plugin_api: int
    plugins: tuple[PluginRow, ...]
    commands: Mapping[str, str] = {}


class ModeRow(Frozen):
    id: str
    name: str
    description: str
    services: tuple[str, ...]
    current: bool
    declared_mb: int


class ModeListResult(Frozen):
    modes: tuple[ModeRow, ...]
    current: str | None


class ModeResult(Frozen):
    mode: Mode
    services: tuple[str, ...]


class ModeMemberStatus(Frozen):
    service: str
    wanted: str
    state: str
    ok: bool
    detail: str = ""


class ModeStatusResult(Frozen):
    """`whole` is true when every member is as the mode wants it and nothing else runs that is not pinned.

    `members` are also what these need, where that is not as it should be; `extra` is up without being wanted.
    `alternative` is the id of the one with which the current mode was taken: that is what is wanted then.
    """

    mode: str
    current: bool
    whole: bool
    members: tuple[ModeMemberStatus, ...]
    extra: tuple[str, ...] = ()
    alternative: str | None = None
    notes: tuple[str, ...] = ()


class DeletedResult(Frozen):
    """What is gone; `notes` say what of it could not be removed."""

    kind: str
    id: str
    notes: tuple[str, ...] = ()


class StepResult(Frozen):
    """`expected_s` is a guess unless `expected_measured`."""

    n: int
    action: str
    service: str
    status: str
    seconds: float | None
    phase: str = "apply"
    why: str = ""
    expected_s: float | None = None
    expected_measured: bool = False
    detail: str = ""
    error: ErrorInfo | None = None


class ChangeResult(Frozen):
    """What a change did. `run_id` is None where nothing was executed (nothing to do, refused, a dry run).

    `mode` is the one that was asked for, `mode_now` the one that is recorded afterwards.
    """

    run_id: str | None
    mode: str | None
    status: RunStatus
    steps: tuple[StepResult, ...] = ()
    error: ErrorInfo | None = None
    plan: Plan | None = None
    mode_now: str | None = None
    dry_run: bool = False
    exit_code: int = 0
    notes: tuple[str, ...] = ()


class ServiceListResult(Frozen):
    services: tuple[Service, ...]
    problems: tuple[ErrorInfo, ...] = ()


class ServiceResult(Frozen):
    """A definition, what it takes and where the numbers come from; `edited` are fields that the user set.
    `drift` names fields that differ from what runs, and `altered` the alternative that made it so, where one did;
    `apply` says how to run it as it is defined. `notes` say why it cannot start on this machine, and which of its
    options hold secrets: these are not in `service`."""

    service: Service
    footprint: Footprint
    edited: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    altered: str = ""
    apply: str = ""
    notes: tuple[str, ...] = ()


class LogsResult(Frozen):
    """`path` is the log's file; where it is none, `follow` is a command that prints what comes."""

    service: str
    lines: tuple[str, ...]
    path: str | None
    follow: tuple[str, ...] = ()


class SimulateResult(Plan):
    """A plan that was shown and stored under `simulation_id` (None in a home that cannot be written)."""

    simulation_id: str | None = None


class PresetRow(Frozen):
    id: str
    kind: Literal["service", "mode"]
    name: str
    source: str
    distribution: str
    loaded: bool
    edited: tuple[str, ...] = ()


class PresetListResult(Frozen):
    presets: tuple[PresetRow, ...]
    problems: tuple[ErrorInfo, ...] = ()


class PresetResult(Frozen):
    id: str
    kind: Literal["service", "mode"]
    source: str
    yaml: str


class PresetLoadResult(Frozen):
    added: tuple[str, ...]
    updated: tuple[str, ...]
    unchanged: tuple[str, ...]
    kept: Mapping[str, tuple[str, ...]] = {}
    problems: tuple[ErrorInfo, ...] = ()


class PresetValidateResult(Frozen):
    """`checked` counts files, also those in which something is wrong."""

    ok: bool
    checked: int
    problems: tuple[ErrorInfo, ...] = ()


class RunRow(Frozen):
    id: str
    command: str
    status: RunStatus
    mode: str | None
    started_at: float
    seconds: float | None
    steps: int
    error: ErrorInfo | None = None


class HistoryListResult(Frozen):
    runs: tuple[RunRow, ...]
    events: tuple[Event, ...] = ()


class HistoryResult(Frozen):
    """A run. Where it was followed to its end, `exit_code` and `error` are those of whoever did it."""

    run: Run
    exit_code: int = 0
    error: ErrorInfo | None = None


class SimulationRow(Frozen):
    id: str
    at: float
    base: Mapping[str, Any]
    verdict: str
    peak_mb: int
    alternatives: tuple[str, ...]


class SimulationsResult(Frozen):
    simulations: tuple[SimulationRow, ...]


class RecoverResult(Frozen):
    """`open_run` None: nothing was left half-way. `change` is set when something was done. `busy` is who changes the
    machine now."""

    open_run: Run | None
    change: ChangeResult | None = None
    busy: str | None = None
    notes: tuple[str, ...] = ()


class SettingRow(Frozen):
    """`value` is in force, and comes from `source`. `stored` is what the database has; where the environment wins over
    it, or what is stored is no value, `note` says so."""

    key: str
    value: str | None
    default: str | None
    source: Literal["default", "database", "environment"]
    description: str
    stored: str | None = None
    note: str = ""


class SettingsResult(Frozen):
    settings: tuple[SettingRow, ...]
