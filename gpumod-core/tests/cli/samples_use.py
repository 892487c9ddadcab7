"""Hand-made turns and idle services: samples for the views (see conftest)."""

from __future__ import annotations

from gpumod.domain.base import Frozen
from gpumod.domain.run import RunStatus
from gpumod.operations import results as r
from gpumod.operations import use_results as use

DONE = r.ChangeResult(run_id="r-7f3d", mode="rag", status=RunStatus.DONE)

SAMPLES: dict[str, Frozen] = {
    "turn": use.TurnResult(
        turn=use.TurnRow(id="t-1", service="hyde", port=8301, holder="ann: python ask.py (pid 7)", waited_s=2.5),
        change=DONE,
    ),
    "turn-over": use.TurnResult(back=DONE, notes=("hyde stays awake: bob is changing this machine",)),
    "idle": use.SleepIdleResult(
        services=(
            use.IdleRow(service="chat", timeout_s=300, idle_s=2.0, in_flight=1, why="1 request under way"),
            use.IdleRow(service="hyde", timeout_s=300, idle_s=301.5, in_flight=0),
            use.IdleRow(service="tts", timeout_s=600, why="its driver acme cannot tell whether it is in use"),
        ),
        change=DONE,
    ),
    "idle-nothing": use.SleepIdleResult(),
}
