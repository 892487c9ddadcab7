"""Hand-made turns, idle services and looks of `watch`: samples for the views (see conftest)."""

from __future__ import annotations

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.health import Health, Transition
from gpumod.domain.run import RunStatus
from gpumod.operations import results as r
from gpumod.operations import use_results as use
from gpumod.operations import watch_results as w

ERROR = ErrorInfo(
    code="start-timeout",
    message="glm-code was not ready in 600 s",
    why="it answered /health with 503",
    hint="gpumod service logs glm-code",
)
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
    "watch": w.WatchResult(
        at=0,
        mode="code",
        whole=True,
        mended=(
            w.Mended(what="boot", subject="code", why="the machine was booted, and boot_mode is code"),
            w.Mended(what="restart", subject="glm-code", why="glm-code: it exited with code 1", error=ERROR),
        ),
        notes=("chat is left alone, it was restarted 3 times within an hour",),
    ),
    "watch-health": w.WatchResult(
        at=0,
        mode="code",
        whole=True,
        transitions=(
            Transition(service="chat", at=0, before=Health.HEALTHY, now=Health.UNHEALTHY, why="no answer in 5 s"),
            Transition(service="tts", at=0, before=Health.UNKNOWN, now=Health.HEALTHY),
        ),
        mended=(w.Mended(what="sleep", subject="hyde", why="hyde: it idles for 301 s, of 300 s that it may"),),
    ),
    "watch-not-whole": w.WatchResult(
        at=0,
        mode="code",
        whole=False,
        wrong=(
            r.ModeMemberStatus(service="glm-code", wanted="awake", state="stopped", ok=False),
            r.ModeMemberStatus(service="hyde", wanted="asleep", state="running", ok=False),
        ),
    ),
    "watch-nothing": w.WatchResult(at=0, mode=None, whole=False),
    "watch-unit": w.WatchResult(
        at=0,
        mode="code",
        whole=None,
        unit=w.WatchUnitState(
            name="gpumod.service",
            path="/home/ann/.config/systemd/user/gpumod.service",
            manager="user",
            installed=True,
            changed=True,
            notes=("it runs only while you are logged in; from boot on: loginctl enable-linger",),
        ),
    ),
    "watch-unit-none": w.WatchResult(
        at=0,
        mode=None,
        whole=None,
        unit=w.WatchUnitState(
            name="gpumod.service",
            path="/etc/systemd/system/gpumod.service",
            manager="system",
            installed=False,
            changed=False,
        ),
    ),
}
