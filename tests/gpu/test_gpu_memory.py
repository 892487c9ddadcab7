"""What the driver tells of real CUDA processes that take memory, give it back, and end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpumod.adapters.nvml.probe import NvmlProbe
from tests.gpu.conftest import NEAR_MB, Holder, card, held_mb, wait_until

pytestmark = pytest.mark.gpu_required

Make = Callable[[], Holder]


def told_mb(probe: NvmlProbe, holder: Holder) -> int:
    """What the process holds as told; where the driver tells no processes, what the whole card holds."""
    mb = held_mb(probe, holder.pid)
    return card(probe).used_mb if mb is None else mb


def near(probe: NvmlProbe, holder: Holder, mb: int) -> Callable[[], bool]:
    return lambda: abs(told_mb(probe, holder) - mb) <= NEAR_MB


def test_what_is_there(probe: NvmlProbe) -> None:
    gpus, _ = probe.read()
    for gpu in gpus:
        assert gpu.fault is None
        assert gpu.uuid.startswith(("GPU-", "MIG-"))
        assert gpu.name
        assert gpu.architecture
        assert gpu.total_mb == gpu.used_mb + gpu.free_mb + gpu.reserved_mb
    assert "driver" in {finding.name for finding in probe.findings()}


def test_memory_is_seen_to_come_and_go(probe: NvmlProbe, holders: Make) -> None:
    holder = holders()
    wait_until(lambda: told_mb(probe, holder) > 0, "the context to show")
    before_mb = told_mb(probe, holder)
    for mb in (256, 1024):
        tell = f"take {mb}"
        holder.tell(tell)
        wait_until(near(probe, holder, before_mb + mb), f"{mb} MiB to show")
        holder.tell("give")
        wait_until(near(probe, holder, before_mb), "them to be given back")


def test_two_processes_are_told_apart_and_one_that_is_killed_is_forgotten(probe: NvmlProbe, holders: Make) -> None:
    used_mb = card(probe).used_mb
    one, two = holders(), holders()
    wait_until(lambda: card(probe).used_mb > used_mb, "their contexts to show")
    if not card(probe).per_process or not probe.read()[1]:
        pytest.skip("the driver does not tell here what each process holds")
    wait_until(lambda: None not in (held_mb(probe, one.pid), held_mb(probe, two.pid)), "both to show")
    ones_mb, twos_mb = told_mb(probe, one), told_mb(probe, two)
    one.tell("take 512")
    wait_until(near(probe, one, ones_mb + 512), "512 MiB of the first to show")
    two.tell("take 768")
    wait_until(near(probe, two, twos_mb + 768), "768 MiB of the second to show")
    assert near(probe, one, ones_mb + 512)()
    one.end()
    wait_until(lambda: held_mb(probe, one.pid) is None, "the first to be forgotten", 3.0)
    assert near(probe, two, twos_mb + 768)()
    two.end()
    wait_until(lambda: abs(card(probe).used_mb - used_mb) <= NEAR_MB, "the whole card to be as before", 3.0)
