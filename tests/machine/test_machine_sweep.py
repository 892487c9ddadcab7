"""Every fault of the simulated machine at every step where it can strike: the exit code, the culprit, what is left.

Each row says what a fault makes of one step of one kind of service, exactly. It is set before the command, or strikes
when the step is under way. A neighbour that was started by hand is never touched. When the fault is over (and
`recover --rollback` was run where gpumod asks for it), the machine is as it was before, or as it was wanted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = [pytest.mark.sim, pytest.mark.timeout(240)]

NEIGHBOUR, ROUTER, GUEST = "embedding-code", "llama-router", "coder"
QUICK = ("sleep_timeout_s=0.7", "wake_timeout_s=0.7", "stop_timeout_s=0.3")
PATIENCE = ("--startup-timeout", "4")
SLOW_S, LAG_S = 3.0, 60.0
"""So long a sleep or wake would last in the middle of which a fault strikes, and memory to come back after a stop
(which nothing ends before it is lowered)."""


class Kind(NamedTuple):
    """A kind of service: its id, what is edited, and published seconds of a sleep and a wake.

    `beside` is up already; what is in `ends` ends with it when it stops.
    """

    service: str
    edit: tuple[str, ...] = ()
    options: tuple[str, ...] = QUICK
    sleep_s: float = 0.2
    wake_s: float = 0.7
    beside: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()


KINDS = {
    "l1": Kind("hyde", sleep_s=0.5, wake_s=0.65),
    "l2": Kind("reranker", ("--sleep-mode", "l2"), wake_s=0.1),
    "http": Kind("asr", ("--sleep-mode", "http"), (*QUICK, "sleep_path=/sleep", "wake_path=/wake")),
    "member": Kind("chat", options=("stop_timeout_s=1",), wake_s=3.3, beside=(ROUTER,), ends=(ROUTER,)),
    "guest": Kind("chat", options=("stop_timeout_s=1",), beside=(ROUTER, GUEST)),
    "single": Kind("glm-code", ("--vram-mb", "3000"), ("stop_timeout_s=0.3",)),
    "router": Kind(ROUTER, options=("stop_timeout_s=0.3",)),
    "host": Kind(ROUTER, options=("stop_timeout_s=0.3",), beside=("chat",), ends=("chat",)),
}
PROCESSES = "l1 http single"
SLEEPERS = "l1 l2 http"


class Row(NamedTuple):
    """What comes of `fault` (`KIND`, `KIND VALUE`, or `SERVICE: KIND`) at `step` of a service of `kind`.

    `during` are states while the fault lasts, `after` when it is over: the service's own, or `ID=STATE ID=STATE`;
    "": as before. `said` is in the notes; `blames` is named in the error, the service where it is "".
    """

    kind: str
    step: str
    fault: str
    exit: int
    code: str = ""
    during: str = ""
    after: str = ""
    said: str = ""
    blames: str = ""
    midway: bool = False


ASKED_S = 0.6
"""After this a step that is under way was asked of the service, so that time may go on as usual."""


def each(kinds: str, *row: Any, **more: Any) -> Iterator[Row]:
    """The same row for several kinds of service."""
    return (Row(kind, *row, **more) for kind in kinds.split())


def midway(*rows: Row) -> Iterator[Row]:
    return (row._replace(midway=True) for row in rows)


GONE: dict[str, Any] = {"exit": 0, "during": "stopped", "after": "stopped"}
ASLEEP: dict[str, Any] = {"exit": 0, "during": "sleeping", "after": "sleeping"}
ROWS: list[Row] = [
    # --- start ------------------------------------------------------------------------------------------------------
    *each(f"{PROCESSES} router", "start", "never-ready", 6, "start-timeout"),
    *each(f"{PROCESSES} router", "start", "hang", 6, "start-timeout"),
    *each("member", "start", "never-ready", 6, "load-timeout"),
    *each("member", "start", "hang", 6, "load-timeout"),
    *each(f"{PROCESSES} member", "start", "oom-at-start", 6, "out-of-memory"),
    *each(f"{PROCESSES} member", "start", "cpu-fallback", 6, "cpu-fallback"),
    *each("l1 http", "start", "die-after 0", 6, "died-while-starting"),
    *each("single member router", "start", "die-after 0", 6, "crashed"),
    # it hangs when gpumod looks, and is started anew
    Row("member", "start", f"{ROUTER}: hang", 6, "start-timeout", f"{ROUTER}=unhealthy", blames=ROUTER),
    *midway(
        *each("l1 http", "start", "die-after 0", 6, "died-while-starting"),
        *each("single member", "start", "die-after 0", 6, "crashed"),
        *each(PROCESSES, "start", "hang", 6, "start-timeout"),
        Row("member", "start", "hang", 6, "load-timeout"),
        Row("member", "start", f"{ROUTER}: die-after 0", 7, "host-ended", f"{ROUTER}=failed", blames=ROUTER),
    ),
    # --- stop: it is gone, whatever it does -------------------------------------------------------------------------
    *each(f"{PROCESSES} router host guest", "stop", "ignore-sigterm", **GONE),
    *each(f"{PROCESSES} router host guest member", "stop", "hang", **GONE),
    *each(f"{PROCESSES} router host guest member", "stop", "die-after 0", **GONE),
    *each(f"{PROCESSES} guest", "stop", "leak 300", said="unattributed 300 MiB", **GONE),
    Row("guest", "stop", "sleep-500", 6, "unload-failed"),
    Row("guest", "stop", "sleep-hangs", 6, "unload-timeout"),
    Row("guest", "stop", "sleep-frees-nothing", 6, "memory-not-released"),
    *each("member", "stop", "sleep-500", said=f"it ends with {ROUTER}", **GONE),
    *each("member", "stop", "sleep-frees-nothing", said=f"it ends with {ROUTER}", **GONE),
    *midway(
        *each(f"{PROCESSES} router host guest", "stop", "die-after 0", **GONE),
        *each("l1 guest", "stop", "hang", **GONE),
    ),
    # --- sleep ------------------------------------------------------------------------------------------------------
    *each(SLEEPERS, "sleep", "sleep-500", 6, "sleep-failed"),
    *each(SLEEPERS, "sleep", "sleep-hangs", 6, "sleep-timeout"),
    *each(SLEEPERS, "sleep", "sleep-frees-nothing", said="freed nothing", **GONE),
    *each(f"{SLEEPERS} member", "sleep", "hang", 1, "not-running", "unhealthy"),
    *each(f"{SLEEPERS} member", "sleep", "die-after 0", 1, "not-running", "failed", "failed"),
    Row("member", "sleep", "sleep-500", 6, "unload-failed"),
    Row("member", "sleep", "sleep-hangs", 6, "unload-timeout"),
    Row("member", "sleep", "sleep-frees-nothing", 6, "memory-not-released"),
    *each("member", "sleep", "ignore-sigterm", **ASLEEP),
    *each("single", "sleep", "ignore-sigterm", **GONE),
    *midway(
        *each(SLEEPERS, "sleep", "die-after 0", 7, "sleep-failed", during="failed"),
        *each(SLEEPERS, "sleep", "hang", 7, "sleep-timeout", during="unhealthy"),
        *each("member", "sleep", "die-after 0", **ASLEEP),
        *each("member", "sleep", "hang", **ASLEEP),
        Row("member", "sleep", f"{ROUTER}: die-after 0", 7, "unload-failed", f"chat=failed {ROUTER}=failed"),
        Row("member", "sleep", f"{ROUTER}: hang", 7, "unload-timeout", f"chat=stopped {ROUTER}=unhealthy"),
    ),
    # --- wake -------------------------------------------------------------------------------------------------------
    *each(f"{SLEEPERS} member", "wake", "wake-oom", 6, "out-of-memory"),
    # what is dead or hangs when gpumod looks is started anew
    *each(SLEEPERS, "wake", "die-after 0", 6, "died-while-starting", during="stopped", after="stopped"),
    *each(SLEEPERS, "wake", "hang", 6, "start-timeout", during="unhealthy", after="running"),
    Row("member", "wake", "hang", 6, "load-timeout"),
    Row("member", "wake", "die-after 0", 6, "crashed"),
    Row("member", "wake", "never-ready", 6, "load-timeout"),
    *midway(
        *each(SLEEPERS, "wake", "die-after 0", 7, "wake-failed", during="failed"),
        *each(SLEEPERS, "wake", "hang", 7, "wake-timeout", during="unhealthy"),
        Row("member", "wake", "die-after 0", 6, "crashed"),
        Row("member", "wake", "hang", 6, "load-timeout"),
        Row("member", "wake", f"{ROUTER}: die-after 0", 7, "host-ended", f"chat=failed {ROUTER}=failed", blames=ROUTER),
        Row("member", "wake", f"{ROUTER}: hang", 7, "load-timeout", f"chat=stopped {ROUTER}=unhealthy"),
    ),
]  # fmt: skip
BY_DEFAULT = {("l2", "sleep", "sleep-hangs", False), ("l2", "wake", "wake-oom", False)}
"""One that hangs and one that runs out of memory. The other rows are `slow`."""


def prepare(machine: Machine, kind: Kind) -> None:
    """Definitions that give up soon, and a neighbour that runs by hand."""
    member = ("--driver", "llamacpp", "--host-service", ROUTER, "--vram-mb", "1000", "--sleep-mode", "router")
    if GUEST in kind.beside:
        machine.ok("service", "add", "--id", GUEST, *member, "--model-path", "/models/coder.gguf")
    options = [word for option in kind.options for word in ("--set", option)]
    machine.ok("service", "edit", ROUTER, "--set", "stop_timeout_s=0.3", *PATIENCE)
    machine.ok("service", "edit", kind.service, *kind.edit, *options, *PATIENCE)
    machine.change("service", "start", NEIGHBOUR)


def bring(machine: Machine, row: Row) -> None:
    """The service in the state in which the step finds it, whatever the last row has left."""
    kind = KINDS[row.kind]
    wanted = {"start": "stopped", "wake": "sleeping"}.get(row.step, "running")
    machine.change("service", "start", NEIGHBOUR)
    for service in kind.beside:
        if machine.states().get(service) != "running":
            machine.change("service", "start", service)
    if machine.states().get(kind.service, "stopped") == wanted:
        return
    verbs = {"stopped": ("stop",), "running": ("wake",), "sleeping": ("wake", "sleep")}[wanted]
    for verb in verbs:
        machine.change("service", verb, kind.service)


def strike(machine: Machine, row: Row) -> None:
    name, _, fault = row.fault.rpartition(": ")
    what, _, value = fault.partition(" ")
    service = name or KINDS[row.kind].service
    if what == "die-after":  # whenever it is started: else it might be ready sooner than it dies
        machine.fault(service, "never-ready")
    machine.fault(service, what, float(value) if value else None)


def command(row: Row) -> tuple[str, ...]:
    bounded = ("--timeout", "1") if row.fault in ("never-ready", "hang") else ()
    return ("service", row.step, KINDS[row.kind].service, *(("--cascade",) if row.kind == "host" else ()), *bounded)


def struck_before(machine: Machine, row: Row, until: Callable[..., Any]) -> Outcome:
    strike(machine, row)
    service = KINDS[row.kind].service
    if "die-after" in row.fault and row.step != "start" and machine.states()[service] != "sleeping":
        until(lambda: machine.states()[service] == "failed", f"{service} to die")
    return machine.quick(*command(row))


def struck_midway(machine: Machine, row: Row, until: Callable[..., Any]) -> Outcome:
    """Run the program, and let the fault strike when the step is under way."""
    kind = KINDS[row.kind]
    if row.step == "start":
        machine.fault(kind.service, "slow-start", 100.0)
    elif row.step == "stop":
        machine.sim.configure(lag_s=LAG_S)
        if kind.service == ROUTER:  # which has no memory to wait for
            machine.fault(ROUTER, "ignore-sigterm")
    else:
        machine.sim.configure(speed=(kind.sleep_s if row.step == "sleep" else kind.wake_s) / SLOW_S)
    runs = machine.sql("SELECT count(*) FROM runs")[0][0]
    process = machine.begin(*command(row))
    until(lambda: machine.sql("SELECT count(*) FROM runs")[0][0] > runs and under_way(machine, row), "the step")
    strike(machine, row)
    deadline = time.monotonic() + ASKED_S
    until(lambda: time.monotonic() > deadline or not under_way(machine, row), "the step to be asked for")
    machine.sim.configure(speed=500.0, lag_s=0.05)
    return machine.end(process)


def under_way(machine: Machine, row: Row) -> bool:
    time.sleep(0.01)  # the processor is needed for others
    rows = machine.sql("SELECT definition FROM run_steps WHERE status = 'running' AND run_id = "
                       "(SELECT id FROM runs ORDER BY seq DESC LIMIT 1)")  # fmt: skip
    steps = [json.loads(definition)["step"] for (definition,) in rows]
    return (row.step, KINDS[row.kind].service) in {(step["action"], step["service"]) for step in steps}


def changed(row: Row, text: str) -> dict[str, str]:
    """The states that `during` or `after` tells of, by service."""
    kind = KINDS[row.kind]
    if "=" in text:
        return dict(word.split("=") for word in text.split())
    ended = kind.ends if text == "stopped" else ()
    return dict.fromkeys((kind.service, *ended), text) if text else {}


def expected(before: dict[str, str], change: dict[str, str]) -> dict[str, str]:
    return {service: state for service, state in {**before, **change}.items() if state != "stopped"}


def pid_of(machine: Machine, service: str) -> int:
    pid: int = next(row["pid"] for row in machine.status()["services"] if row["id"] == service)
    return pid


def check(machine: Machine, row: Row, until: Callable[..., Any]) -> None:
    """Bring the machine to where `row` begins, let its fault strike, and look at everything."""
    print(row)  # which row it was is seen when it fails
    bring(machine, row)
    service = KINDS[row.kind].service
    before, held, neighbour = machine.states(), machine.held(), pid_of(machine, NEIGHBOUR)
    outcome = (struck_midway if row.midway else struck_before)(machine, row, until)
    assert (outcome.code, outcome.error.get("code", "")) == (row.exit, row.code), str(outcome)
    if row.code:
        assert (row.blames or service) in outcome.error["message"], outcome.error
    assert row.said in " ".join(outcome.json.get("notes", ())), outcome.json.get("notes")
    assert machine.states() == expected(before, changed(row, row.during)), str(outcome)

    machine.clear()
    if row.exit == 7:
        machine.change("recover", "--rollback")
    after = changed(row, row.after)
    until(lambda: machine.states() == expected(before, after), f"{machine.states()} to become {before} but {after}", 3)
    up = {name for name, state in after.items() if state == "running"}
    kept = {name: mb for name, mb in held.items() if name not in after}
    until(lambda: without(machine.held(), up) == kept, f"{machine.held()} to become {kept}", 3)
    assert machine.status()["open_run"] is None
    assert pid_of(machine, NEIGHBOUR) == neighbour
    machine.agrees()


def without(held: dict[str, int], services: set[str]) -> dict[str, int]:
    return {name: mb for name, mb in held.items() if name not in services}


def key(row: Row) -> tuple[str, str, str, bool]:
    return (row.kind, row.step, row.fault, row.midway)


def grouped() -> dict[str, list[Row]]:
    """The slow rows by what they have in common."""
    groups: dict[str, list[Row]] = {}
    for row in ROWS:
        if key(row) not in BY_DEFAULT:
            groups.setdefault(f"{row.kind}-{row.step}{'-midway' if row.midway else ''}", []).append(row)
    return groups


@pytest.mark.parametrize("row", [row for row in ROWS if key(row) in BY_DEFAULT], ids=lambda row: "-".join(row[:3]))
def test_a_fault(machine: Machine, row: Row, until: Callable[..., Any]) -> None:
    prepare(machine, KINDS[row.kind])
    check(machine, row, until)


@pytest.mark.slow
@pytest.mark.parametrize("rows", list(grouped().values()), ids=list(grouped()))
def test_faults(machine: Machine, rows: Sequence[Row], until: Callable[..., Any]) -> None:
    """One after the other on one machine: what a fault has left shows in the next row too."""
    prepare(machine, KINDS[rows[0].kind])
    for row in rows:
        check(machine, row, until)
