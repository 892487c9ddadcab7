"""Every fault of the simulated machine at every step where it can strike: the exit code, the culprit, what is left.

Each row says what a fault makes of one step of one kind of service, exactly. It is set before the command, or strikes
when the step is under way. A neighbour that was started by hand is never touched. When the fault is over (and
`recover --rollback` was run where gpumod asks for it), the machine is as it was before, or as it was wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, Outcome

pytestmark = [pytest.mark.sim, pytest.mark.timeout(180)]

NEIGHBOUR, ROUTER = "embedding-code", "llama-router"
QUICK = ("sleep_timeout_s=0.7", "wake_timeout_s=0.7", "stop_timeout_s=0.3")
UNATTRIBUTED = "unattributed 300 MiB"
FREED_NOTHING = "freed nothing"


class Kind(NamedTuple):
    """A kind of service: its id, how the preset is edited (options beside), and published seconds of a sleep and wake."""

    service: str
    edit: tuple[str, ...] = ()
    options: tuple[str, ...] = QUICK
    sleep_s: float = 0.2
    wake_s: float = 0.7
    beside: tuple[str, ...] = ()


KINDS = {
    "l1": Kind("hyde", sleep_s=0.5, wake_s=0.65),
    "l2": Kind("reranker", ("--sleep-mode", "l2"), wake_s=0.1),
    "http": Kind("asr", ("--sleep-mode", "http"), (*QUICK, "sleep_path=/sleep", "wake_path=/wake")),
    "member": Kind("chat", options=("stop_timeout_s=1",), wake_s=3.3, beside=(ROUTER,)),
    "single": Kind("glm-code", ("--vram-mb", "3000"), ("stop_timeout_s=0.3",)),
    "router": Kind(ROUTER, options=("stop_timeout_s=0.3",)),
    "host": Kind(ROUTER, options=("stop_timeout_s=0.3",), beside=("chat",)),
}
SLOW_S = 0.6
"""So long a step lasts in the middle of which a fault strikes."""


class Row(NamedTuple):
    """What comes of `fault` (`KIND`, `KIND VALUE`, or `SERVICE: KIND`) at `step` of a service of `kind`.

    `during` is the service's state while the fault lasts, `after` when it is over; None: as before.
    """

    kind: str
    step: str
    fault: str
    exit: int
    code: str = ""
    during: str | None = None
    after: str | None = None
    said: str = ""
    midway: bool = False


def midway(*rows: Row) -> Iterator[Row]:
    return (row._replace(midway=True) for row in rows)


def each(kinds: str, step: str, fault: str, exit_code: int, code: str = "", **more: Any) -> Iterator[Row]:
    """The same row for several kinds of service."""
    return (Row(kind, step, fault, exit_code, code, **more) for kind in kinds.split())


PROCESSES = "l1 l2 http single"
SLEEPERS = "l1 l2 http"
ROWS: list[Row] = [
    # --- start ------------------------------------------------------------------------------------------------------
    *each(f"{PROCESSES} router", "start", "never-ready", 6, "start-timeout"),
    *each(f"{PROCESSES} router", "start", "hang", 6, "start-timeout"),
    *each("member", "start", "never-ready", 6, "load-timeout"),
    *each("member", "start", "hang", 6, "load-timeout"),
    *each(f"{PROCESSES} member", "start", "oom-at-start", 6, "out-of-memory"),
    *each(f"{PROCESSES} member", "start", "cpu-fallback", 6, "cpu-fallback"),
    *each(SLEEPERS, "start", "die-after 0", 6, "died-while-starting"),
    *each("single member router", "start", "die-after 0", 6, "crashed"),
    *midway(
        *each(SLEEPERS, "start", "die-after 0", 6, "died-while-starting"),
        *each("single member", "start", "die-after 0", 6, "crashed"),
        *each(PROCESSES, "start", "hang", 6, "start-timeout"),
        *each("member", "start", "hang", 6, "load-timeout"),
        Row("member", "start", f"{ROUTER}: die-after 0", 7, "load-failed"),
        Row("member", "start", f"{ROUTER}: hang", 7, "load-timeout"),
    ),
    # --- stop: it is gone, whatever it does -------------------------------------------------------------------------
    *each(f"{PROCESSES} router host", "stop", "ignore-sigterm", 0, during="stopped", after="stopped"),
    *each(f"{PROCESSES} router host member", "stop", "hang", 0, during="stopped", after="stopped"),
    *each(f"{PROCESSES} router host member", "stop", "die-after 0", 0, during="stopped", after="stopped"),
    *each(f"{PROCESSES} member", "stop", "leak 300", 0, during="stopped", after="stopped", said=UNATTRIBUTED),
    Row("member", "stop", "ignore-sigterm", 0, during="stopped", after="stopped"),
    Row("member", "stop", "sleep-500", 6, "unload-failed"),
    Row("member", "stop", "sleep-hangs", 6, "unload-timeout"),
    Row("member", "stop", "sleep-frees-nothing", 6, "memory-not-released"),
    *midway(
        *each(f"{PROCESSES} router host", "stop", "die-after 0", 0, during="stopped", after="stopped"),
        *each(f"{PROCESSES} router host", "stop", "hang", 0, during="stopped", after="stopped"),
    ),
    # --- sleep ------------------------------------------------------------------------------------------------------
    *each(SLEEPERS, "sleep", "sleep-500", 6, "sleep-failed"),
    *each(SLEEPERS, "sleep", "sleep-hangs", 6, "sleep-timeout"),
    *each(SLEEPERS, "sleep", "sleep-frees-nothing", 0, during="stopped", after="stopped", said=FREED_NOTHING),
    *each(f"{SLEEPERS} member", "sleep", "hang", 1, "not-running", during="unhealthy"),
    *each(f"{SLEEPERS} member", "sleep", "die-after 0", 1, "not-running", during="failed", after="failed"),
    Row("member", "sleep", "sleep-500", 6, "unload-failed"),
    Row("member", "sleep", "sleep-hangs", 6, "unload-timeout"),
    Row("member", "sleep", "sleep-frees-nothing", 6, "memory-not-released"),
    Row("member", "sleep", "ignore-sigterm", 0, during="sleeping", after="sleeping"),
    Row("single", "sleep", "ignore-sigterm", 0, during="stopped", after="stopped"),
    *midway(
        *each(SLEEPERS, "sleep", "die-after 0", 7, "sleep-failed", during="failed"),
        *each(SLEEPERS, "sleep", "hang", 7, "sleep-timeout", during="unhealthy"),
        Row("member", "sleep", "die-after 0", 0, during="sleeping", after="sleeping"),
        Row("member", "sleep", "hang", 0, during="sleeping", after="sleeping"),
        Row("member", "sleep", f"{ROUTER}: die-after 0", 7, "unload-failed", during="failed"),
        Row("member", "sleep", f"{ROUTER}: hang", 7, "unload-timeout", during="unhealthy"),
    ),
    # --- wake -------------------------------------------------------------------------------------------------------
    *each(f"{SLEEPERS} member", "wake", "wake-oom", 6, "out-of-memory"),
    *each(SLEEPERS, "wake", "die-after 0", 6, "died-while-starting", during="stopped", after="stopped"),
    *each(SLEEPERS, "wake", "hang", 6, "start-timeout"),
    Row("member", "wake", "hang", 6, "load-timeout"),
    Row("member", "wake", "die-after 0", 6, "crashed"),
    Row("member", "wake", "never-ready", 6, "load-timeout"),
    *midway(
        *each(SLEEPERS, "wake", "die-after 0", 7, "wake-failed", during="failed"),
        *each(SLEEPERS, "wake", "hang", 7, "wake-timeout", during="unhealthy"),
        Row("member", "wake", "die-after 0", 6, "crashed"),
        Row("member", "wake", "hang", 6, "load-timeout"),
        Row("member", "wake", f"{ROUTER}: die-after 0", 7, "load-failed", during="failed"),
        Row("member", "wake", f"{ROUTER}: hang", 7, "load-timeout", during="unhealthy"),
    ),
]  # fmt: skip
DEFAULT = {
    ("l1", "start", "die-after 0", True),
    ("member", "start", "hang", False),
    ("http", "stop", "leak 300", False),
    ("l2", "sleep", "sleep-hangs", False),
    ("l1", "sleep", "die-after 0", True),
    ("member", "sleep", "sleep-frees-nothing", False),
    ("l2", "wake", "wake-oom", False),
    ("single", "stop", "ignore-sigterm", False),
}  # fmt: skip
"""The rows that run by default: a cross-section of kinds, steps and faults."""


def params() -> list[Any]:
    found = []
    for row in ROWS:
        name = f"{row.kind} {row.step} {row.fault}{' midway' if row.midway else ''}"
        runs = (row.kind, row.step, row.fault, row.midway) in DEFAULT
        found.append(pytest.param(row, id=name.replace(" ", "-"), marks=() if runs else pytest.mark.slow))
    return found


def prepare(machine: Machine, row: Row) -> None:
    """The neighbour up, and the service in the state in which the step finds it."""
    kind = KINDS[row.kind]
    patience = ("--startup-timeout", "3") if "hang" in row.fault else ()
    options = [word for option in kind.options for word in ("--set", option)]
    machine.ok("service", "edit", kind.service, *kind.edit, *options, *patience)
    if row.fault.startswith(ROUTER):
        machine.ok("service", "edit", ROUTER, "--set", "stop_timeout_s=0.3", *patience)
    for service in (NEIGHBOUR, *kind.beside):
        machine.change("service", "start", service)
    if row.step != "start" and kind.service not in kind.beside:
        machine.change("service", "start", kind.service)
    if row.step == "wake":
        machine.change("service", "sleep", kind.service)


def strike(machine: Machine, row: Row) -> None:
    name, _, fault = row.fault.rpartition(": ")
    what, _, value = fault.partition(" ")
    machine.fault(name or KINDS[row.kind].service, what, float(value) if value else None)


def command(row: Row) -> tuple[str, ...]:
    bounded = ("--timeout", "1") if row.fault in ("never-ready", "hang") else ()
    return ("service", row.step, KINDS[row.kind].service, *(("--cascade",) if row.kind == "host" else ()), *bounded)


def struck_midway(machine: Machine, row: Row, until: Callable[..., Any]) -> Outcome:
    """Run the program, and let the fault strike when the step is under way."""
    kind = KINDS[row.kind]
    if row.step == "start":
        machine.fault(kind.service, "slow-start", 100.0)
    elif row.step == "stop":
        machine.sim.configure(lag_s=SLOW_S)
    else:
        machine.sim.configure(speed=(kind.sleep_s if row.step == "sleep" else kind.wake_s) / SLOW_S)
    before = machine.sql("SELECT count(*) FROM runs")[0][0]
    process = machine.begin(*command(row))
    until(lambda: machine.sql("SELECT count(*) FROM runs")[0][0] > before and under_way(machine, row), "the step")
    strike(machine, row)
    machine.sim.configure(speed=500.0, lag_s=0.05)
    return machine.end(process)


def under_way(machine: Machine, row: Row) -> bool:
    rows = machine.sql("SELECT definition FROM run_steps WHERE status = 'running' AND run_id = "
                       "(SELECT id FROM runs ORDER BY seq DESC LIMIT 1)")  # fmt: skip
    steps = [json.loads(definition)["step"] for (definition,) in rows]
    return (row.step, KINDS[row.kind].service) in {(step["action"], step["service"]) for step in steps}


def with_state(states: dict[str, str], service: str, state: str | None) -> dict[str, str]:
    """`states`, with the service in another one; as they are where that is None."""
    if state is None:
        return states
    others = {name: other for name, other in states.items() if name != service}
    return others if state == "stopped" else {**others, service: state}


def pid_of(machine: Machine, service: str) -> int:
    pid: int = next(row["pid"] for row in machine.status()["services"] if row["id"] == service)
    return pid


@pytest.mark.parametrize("row", params())
def test_a_fault(machine: Machine, row: Row, until: Callable[..., Any]) -> None:
    service = KINDS[row.kind].service
    prepare(machine, row)
    before, held, neighbour = machine.states(), machine.held(), pid_of(machine, NEIGHBOUR)
    if row.midway:
        outcome = struck_midway(machine, row, until)
    else:
        strike(machine, row)
        outcome = machine.quick(*command(row))
    assert (outcome.code, outcome.error.get("code", "")) == (row.exit, row.code), str(outcome)
    if row.code:
        assert service in outcome.error["message"], outcome.error
    assert row.said in " ".join(outcome.json.get("notes", ())), outcome.json.get("notes")
    assert machine.states() == with_state(before, service, row.during), str(outcome)
    assert pid_of(machine, NEIGHBOUR) == neighbour

    machine.clear()
    if row.exit == 7:
        machine.change("recover", "--rollback")
    assert machine.status()["open_run"] is None
    assert machine.states() == with_state(before, service, row.after)
    kept = held if row.after is None else {name: mb for name, mb in held.items() if name != service}
    until(lambda: machine.held() == kept, f"{machine.held()} to become {kept}", 3.0)
    assert pid_of(machine, NEIGHBOUR) == neighbour
    machine.agrees()
