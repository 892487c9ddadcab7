"""From a result to the exit status: 0 done, 1 failed or not whole, 3 does not fit; a change says its own."""

from __future__ import annotations

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.plan import Plan
from gpumod.operations import box_results as b
from gpumod.operations import lease_results as l
from gpumod.operations import results as r
from gpumod.operations import unit_results as u
from gpumod.operations import use_results as use
from gpumod.operations import watch_results as w
from gpumod.operations.plugin_results import PluginCheckResult

DOES_NOT_FIT = 3


def exit_code_of(result: Frozen) -> int:
    """The exit status of a command that printed `result`."""
    if isinstance(result, r.ChangeResult):
        misfit = result.dry_run and result.plan is not None and not result.plan.fits
        return result.exit_code or (DOES_NOT_FIT if misfit else 0)
    if isinstance(result, r.HistoryResult):
        return result.exit_code
    if isinstance(result, r.RecoverResult | b.ApplyResult | use.SleepIdleResult):
        return exit_code_of(result.change) if result.change else 0
    if isinstance(result, l.FreeResult | use.TurnResult):
        ended = [exit_code_of(part) for part in (result.change, result.back) if part is not None]
        return next((code for code in ended if code), result.command_exit or 0)
    if isinstance(result, b.ExportResult):
        return 1 if result.error else 0
    if isinstance(result, w.WatchResult):
        return 1 if not result.ok or any(done.error for done in result.mended) else 0
    if isinstance(result, Plan):
        return 0 if result.fits else DOES_NOT_FIT
    if isinstance(result, r.DoctorResult | r.PresetValidateResult | PluginCheckResult):
        return 0 if result.ok else 1
    if isinstance(result, r.PresetLoadResult):
        # A driver that is not installed is no fault of a preset: its definition is loaded all the same.
        return 1 if any(problem.code != "unknown-driver" for problem in result.problems) else 0
    return 0


def did_something(result: Frozen) -> bool:
    """False for a result that is an answer alone: a simulation, a dry run, a verdict, a unit that is only shown."""
    if isinstance(result, u.UnitResult):
        return result.written
    if isinstance(result, PluginCheckResult):
        return False
    if isinstance(result, r.RecoverResult | use.SleepIdleResult):
        return result.change is not None and not result.change.dry_run
    if isinstance(result, l.FreeResult):
        return not any(part is not None and part.dry_run for part in (result.change, result.back))
    return not isinstance(result, Plan) and not getattr(result, "dry_run", False)


def error_of(result: Frozen) -> ErrorInfo | None:
    """The error inside a result, which people see on stderr."""
    if isinstance(result, r.ChangeResult | r.HistoryResult | b.ExportResult):
        return result.error
    if isinstance(result, r.RecoverResult | b.ApplyResult | use.SleepIdleResult) and result.change:
        return result.change.error
    if isinstance(result, l.FreeResult | use.TurnResult):
        return next((part.error for part in (result.change, result.back) if part and part.error), None)
    return None
