"""Results for people, one view per result type. Text from outside is shown, never interpreted."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from gpumod.cli.streams import in_utf8

if TYPE_CHECKING:
    from rich.console import RenderableType

    from gpumod.domain.base import Frozen

VIEWS = {
    "InitResult": "machine:init",
    "StatusResult": "status:status",
    "ServiceStatus": "status:service_status",
    "PsResult": "status:processes",
    "DoctorResult": "machine:doctor",
    "PluginsResult": "machine:plugins",
    "PluginCheckResult": "plugging:checked",
    "PluginNewResult": "plugging:written",
    "ModeListResult": "modes:mode_list",
    "ModeResult": "modes:mode",
    "ModeStatusResult": "modes:mode_status",
    "DeletedResult": "modes:deleted",
    "ServiceListResult": "services:service_list",
    "ServiceResult": "services:service",
    "LogsResult": "services:logs",
    "ChangeResult": "change:change",
    "RecoverResult": "change:recovery",
    "SimulateResult": "plan:simulation",
    "PresetListResult": "presets:preset_list",
    "PresetResult": "presets:preset",
    "PresetLoadResult": "presets:loaded",
    "PresetValidateResult": "presets:validated",
    "ExportResult": "boxes:exported",
    "DiffResult": "boxes:difference",
    "ApplyResult": "boxes:applied",
    "FreeResult": "leases:freed",
    "TurnResult": "use:turned",
    "SleepIdleResult": "use:idling",
    "WatchResult": "watching:looked",
    "HistoryListResult": "history:runs",
    "HistoryResult": "history:run",
    "SimulationsResult": "history:simulations",
    "AdoptResult": "adoption:adopted",
    "ReleaseResult": "adoption:released",
    "ImportResult": "adoption:imported",
    "UnitResult": "units:unit",
    "TemplateListResult": "units:template_list",
    "TemplateResult": "units:template",
    "SecretsResult": "units:secrets",
    "SettingRow": "settings:setting",
    "SettingsResult": "settings:settings",
}
"""Result type -> "module:function" below this package, imported when it is shown."""


def render(result: Frozen, **options: Any) -> RenderableType:
    """`result` as something that rich prints. `options` are the view's own (`visual`)."""
    module, _, function = VIEWS[type(result).__name__].partition(":")
    view = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    shown: RenderableType = view(result, **options)
    return shown


def stdout_console() -> Console:
    """The console for results: no markup, no emoji codes, no colour where it is not wanted."""
    return Console(file=sys.stdout, markup=False, emoji=False, highlight=False)


def stderr_console() -> Console:
    """The same for progress."""
    return Console(file=sys.stderr, markup=False, emoji=False, highlight=False)


def print_on(console: Console, shown: RenderableType) -> None:
    """Print a view; where no terminal reads it, without the blanks that fill up its lines. A text that is not to be
    wrapped (YAML, a log) keeps its lines, however long they are, and its characters."""
    as_it_is = isinstance(shown, Text) and bool(shown.no_wrap)
    if as_it_is:
        in_utf8(console.file)
    if console.is_terminal:
        console.print(shown, soft_wrap=as_it_is)
        return
    with console.capture() as capture:
        console.print(shown, soft_wrap=as_it_is)
    console.file.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
