"""The token that finds the processes of a run again: pids with their start times, of one boot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumod.adapters.process.proc import Proc, boot_id, is_shim, parent

NO_SHIM = 1
"""Start time given for a shim that is gone: no process that can be found began one tick after the boot."""


def is_token(token: Mapping[str, Any]) -> bool:
    """True for a whole token of this boot."""
    numbers = (token.get(key) for key in ("pid", "pid_started", "shim_pid", "shim_started"))
    return all(isinstance(number, int) and number > 0 for number in numbers) and token.get("boot") == boot_id()


def main_process(token: Mapping[str, Any]) -> Proc:
    return Proc(token["pid"], token["pid_started"])


def shim_process(token: Mapping[str, Any]) -> Proc:
    return Proc(token["shim_pid"], token["shim_started"])


def token_of(found: Sequence[Proc]) -> dict[str, Any] | None:
    """A token for processes that were found by their nonce alone. None: the shim is there, the service not yet.

    The main process is the child of the shim; where the shim is gone, the eldest whose parent was not found.
    """
    shims = {process.pid: process for process in found if is_shim(process.pid)}
    pids = {process.pid for process in found}
    for process in sorted(found, key=lambda one: (one.started, one.pid)):
        above = parent(process.pid)
        if process.pid in shims or (above in pids and above not in shims):
            continue
        shim = shims.get(above or 0, Proc(process.pid, NO_SHIM))
        return {
            "pid": process.pid,
            "pid_started": process.started,
            "shim_pid": shim.pid,
            "shim_started": shim.started,
            "boot": boot_id(),
        }
    return None
