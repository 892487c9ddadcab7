"""From what systemd says of a unit to what gpumod knows of a service: its processes, its run, and how that ended."""

from __future__ import annotations

import functools
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from gpumod.adapters.files import open_own
from gpumod.adapters.systemd.cgroups import pids_in
from gpumod.adapters.systemd.manager import Properties
from gpumod.domain.errors import Failed
from gpumod.domain.run import Handle
from gpumod.ports import ProcessStatus

ASKED = (
    *("LoadState", "ActiveState", "SubState", "Result", "MainPID", "ExecMainCode", "ExecMainStatus", "ControlGroup"),
    *("ExecMainStartTimestampMonotonic", "InvocationID", "FragmentPath", "NeedDaemonReload", "NRestarts"),
    *("TimeoutStopUSec", "Job"),
)
OVER = frozenset({"inactive", "failed"})
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"([\d.]+)(us|ms|s|min|h|d|w)\b")
_CODES = {"exited": 1, "killed": 2, "dumped": 3}


class Ending(NamedTuple):
    """How a run ended, as ExecStopPost= wrote it down. `code` is negative for a signal."""

    nonce: str
    invocation: str
    result: str
    code: int | None


def is_active(shown: Properties) -> bool:
    """True while anything of the unit runs, or systemd is about to run it again."""
    return shown.get("ActiveState", "inactive") not in OVER


def is_due(shown: Properties) -> bool:
    """True for what is active, and for what is down and has a job: its start waits for its turn."""
    return is_active(shown) or number(shown, "Job") > 0


def pids_of(shown: Properties) -> tuple[int, ...]:
    """Every process of the unit."""
    main = number(shown, "MainPID")
    return pids_in(shown.get("ControlGroup", "")) or ((main,) if main else ())


def status_of(handle: Handle, shown: Properties, ending: Ending | None) -> ProcessStatus:
    """The status of a handle whose unit is `shown`."""
    if not is_active(shown):
        return ProcessStatus(alive=False, exit_code=_exit_code(handle, shown, ending), detail=_detail(shown, ending))
    return _up(shown, ending)


def state_of(shown: Properties) -> ProcessStatus:
    """The status of a unit that is not ours, by what systemd alone tells of it."""
    code, status = number(shown, "ExecMainCode"), number(shown, "ExecMainStatus")
    if not is_active(shown):
        ended = None if code not in _CODES.values() else status if code == 1 else -status
        return ProcessStatus(alive=False, exit_code=ended, detail=_detail(shown, None))
    return _up(shown, None)


def _up(shown: Properties, ending: Ending | None) -> ProcessStatus:
    """The status of a unit that is active."""
    pid = number(shown, "MainPID") or None
    return ProcessStatus(
        alive=True,
        pid=pid,
        pids=pids_of(shown),
        started_at=_epoch(number(shown, "ExecMainStartTimestampMonotonic")),
        token=token_of(shown),
        detail="" if pid else _detail(shown, ending),
    )


def token_of(shown: Properties) -> Mapping[str, str | int]:
    """What finds this run again: the unit's name and systemd's id of the run."""
    return {"unit": shown["Id"], "invocation": shown.get("InvocationID", ""), "pid": number(shown, "MainPID")}


def ending_at(path: Path) -> Ending | None:
    """What was written down of the end of the last run; None where nothing was, or half of it."""
    try:
        with open_own(path) as file:
            nonce, invocation, result, kind, status = file.read().decode("utf-8", "replace").split()
    except (OSError, ValueError, Failed):
        return None
    code = int(status) if status.isdigit() else _signal(status)
    if code is not None and kind in ("killed", "dumped"):
        code = -code
    return Ending(nonce, invocation, result, code if kind in _CODES else None)


def _signal(name: str) -> int | None:
    found = signal.Signals.__members__.get(f"SIG{name}")
    return int(found) if found else None


def _exit_code(handle: Handle, shown: Properties, ending: Ending | None) -> int | None:
    if ending is not None and ending.nonce == handle.nonce:
        return ending.code
    if not handle.token or shown.get("InvocationID") != handle.token.get("invocation"):
        return None  # systemd knows of another run, or has forgotten this one
    code, status = number(shown, "ExecMainCode"), number(shown, "ExecMainStatus")
    return None if code not in _CODES.values() else status if code == 1 else -status


def _detail(shown: Properties, ending: Ending | None) -> str:
    result = shown.get("Result", "success")
    if shown.get("SubState") == "auto-restart":
        return f"systemd is about to restart it ({shown.get('NRestarts', '?')} restarts so far; {result})"
    if result == "oom-kill" or (ending is not None and ending.result == "oom-kill"):
        return "the kernel ended it: the machine, or its control group, ran out of memory"
    if result == "start-limit-hit":
        return "it failed again and again, so systemd gave up restarting it"
    return ""


def _epoch(monotonic_us: int) -> float | None:
    if not monotonic_us:
        return None
    return _boot() + monotonic_us / 1e6


@functools.cache
def _boot() -> float:
    """When CLOCK_MONOTONIC began, in seconds since the epoch: one answer for one gpumod."""
    return time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)


def seconds(shown: Properties, name: str) -> float | None:
    """A span of time that systemd tells (`1min 30s`); None for `infinity` and the like."""
    found = _SPAN.findall(shown.get(name, ""))
    return sum(float(count) * _SECONDS[unit] for count, unit in found) if found else None


def number(shown: Properties, name: str) -> int:
    """A number that systemd tells; 0 for `[not set]` and the like."""
    text = shown.get(name, "")
    return int(text) if text.isdigit() else 0
