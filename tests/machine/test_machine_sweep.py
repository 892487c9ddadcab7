"""Every kind of fault, while every kind of service is put to sleep or woken: the outcome is whole, whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine

NAPS = ("--sleep-mode", "http", "--set", "sleep_path=/sleep", "--set", "wake_path=/wake")
QUICK = ("--set", "sleep_timeout_s=0.5", "--set", "wake_timeout_s=0.5", "--set", "stop_timeout_s=0.5")
KINDS = {
    "sleep": [("die-after", 0.0), ("hang", None), ("sleep-500", None), ("sleep-hangs", None),
              ("sleep-frees-nothing", None), ("ignore-sigterm", None), ("leak", 300.0)],
    "wake": [("die-after", 0.0), ("hang", None), ("wake-oom", None), ("ignore-sigterm", None), ("leak", 300.0)],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", ["hyde", "chat", "asr"])
@pytest.mark.parametrize("action", ["sleep", "wake"])
def test_a_fault_while_a_service_falls_asleep_or_wakes(machine: Machine, action: str, service: str) -> None:
    machine.ok("service", "edit", "asr", *NAPS, *QUICK)
    machine.ok("service", "edit", "hyde", *QUICK[:4])
    machine.change("service", "start", service)
    for kind, value in KINDS[action]:
        machine.change("service", "wake", service)
        if action == "wake":
            machine.change("service", "sleep", service)
        before = machine.states()
        machine.fault(service, kind, value)
        outcome = machine.gpumod("service", action, service, "--json", "--timeout", "3")
        assert outcome.code in (0, 1, 6, 7), (kind, str(outcome))
        if outcome.code:
            assert service in str(outcome.error), (kind, str(outcome))
        machine.clear()
        if outcome.code == 7:
            machine.change("recover", "--rollback")
        if kind in ("die-after", "hang"):  # they strike before gpumod looks: what was there is a broken service
            assert machine.states().get(service) != "starting", kind
        elif outcome.code:
            assert machine.states() == before, (kind, str(outcome))
        else:
            assert machine.states().get(service) in ("sleeping", "running") or "freed nothing" in str(outcome.json), (
                kind
            )
        machine.agrees()
        machine.change("service", "restart", service)
    machine.change("switch", "blank")
    machine.nothing_left()
