"""What the engine tells of a container, in the words of a supervisor."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from gpumod.api import Handle, ProcessStatus
from gpumod_docker.pids import tree_of

MIB = 1024 * 1024
Inspected = Mapping[str, Any]


def is_up(seen: Inspected) -> bool:
    state = seen.get("State", {})
    return bool(state.get("Running")) or state.get("Status") in ("paused", "restarting")


def token_of(seen: Inspected, socket: str) -> Mapping[str, Any]:
    """What finds the run again: the engine, the container, and when it was started."""
    return {"engine": socket, "container": seen["Id"], "started": seen["State"]["StartedAt"]}


def status_of(handle: Handle, seen: Inspected | None, socket: str, proxies: Sequence[int] = ()) -> ProcessStatus:
    """The status of the run of `handle`, of which the engine says `seen` (None: it has no such container)."""
    if seen is None:
        return ProcessStatus(alive=False, token=handle.token)
    state = seen["State"]
    if is_up(seen):
        tree = tree_of(top_of(seen))
        return ProcessStatus(
            alive=True,
            pid=tree.main,
            # between two runs its port may be another's
            pids=tuple(sorted({*tree.pids, *(proxies if top_of(seen) else ())})),
            started_at=epoch_s(state["StartedAt"]),
            exit_code=exit_code(int(state["ExitCode"])) if state.get("Restarting") else None,
            token=token_of(seen, socket),
            detail=_is_up_but(seen),
            restarts=int(seen.get("RestartCount") or 0),
        )
    finished_at = epoch_s(state.get("FinishedAt", ""))
    ran = state.get("Status") in ("exited", "dead") and finished_at is not None
    if not ran or (not handle.token and finished_at is not None and finished_at < handle.started_at):
        return ProcessStatus(alive=False, token=handle.token)  # what ended there was an earlier run
    return ProcessStatus(
        alive=False,
        started_at=epoch_s(state["StartedAt"]),
        exit_code=exit_code(int(state["ExitCode"])),
        token=token_of(seen, socket),
        detail=why_ended(seen),
    )


def top_of(seen: Inspected) -> int:
    """The pid of its first process; 0 where it has none, as between two runs of one that its engine restarts."""
    return int(seen["State"].get("Pid") or 0)


def _is_up_but(seen: Inspected) -> str:
    """What the engine counts as up without its program running."""
    state = seen["State"]
    if state.get("Restarting"):
        told = f"{seen.get('RestartCount', '?')} restarts so far; it ended with exit code {state['ExitCode']}"
        return f"its engine is about to restart it ({told})"
    return "it is paused (docker unpause)" if state.get("Paused") else ""


def exit_code(code: int) -> int:
    """A signal's number below zero, as other supervisors tell it: engines add 128."""
    return 128 - code if code - 128 in set(signal.Signals) else code


def why_ended(seen: Inspected) -> str:
    """What an exit code alone does not say."""
    state, limit = seen["State"], int(seen.get("HostConfig", {}).get("Memory") or 0)
    if state.get("OOMKilled"):
        of = f"its limit is {limit // MIB} MiB (memory_mb)" if limit else "this machine's own"
        return f"the kernel killed it for want of host memory, not of VRAM: {of}"
    # 126 and 127 say nothing here: a program that is not there is told at the start, and a shell's log tells more
    return str(state.get("Error") or "")[:300]


def epoch_s(text: str) -> float | None:
    """Seconds since the epoch of the engine's time, which has nanoseconds; None for its year 1."""
    if not text or text.startswith("0001-"):
        return None
    whole, _, rest = text.replace("Z", "+00:00").partition(".")
    if not rest:
        return datetime.fromisoformat(whole).timestamp()
    cut = next(i for i, char in enumerate(rest) if not char.isdigit())
    return datetime.fromisoformat(whole + rest[cut:]).timestamp() + float(f"0.{rest[:cut]}")
