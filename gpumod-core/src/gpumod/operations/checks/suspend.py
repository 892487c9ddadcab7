"""Suspend: a machine that serves should not, and one that does loses what CUDA programs hold unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.domain.errors import GpumodError
from gpumod.operations.checks.case import Case, fine, unseen, warning
from gpumod.operations.results import Check

TARGETS = ("suspend.target", "hibernate.target", "hybrid-sleep.target", "suspend-then-hibernate.target")
SLEEP = "sleep.target"
"""What all of them need: masking it masks them."""
STATES = frozenset({"mem", "disk", "freeze", "standby"})
HELPERS = ("nvidia-suspend.service", "nvidia-resume.service")
MASK = f"sudo systemctl mask {SLEEP} {' '.join(TARGETS)}"


def check_suspend(case: Case) -> Iterator[Check]:
    if not case.real:
        return
    if not STATES & set(case.computer.sleep_states()):
        yield fine("suspend", "this machine knows no sleep state")
        return
    try:
        shown = case.computer.units("system", (SLEEP, *TARGETS, *HELPERS))
    except GpumodError as error:
        yield unseen("suspend", f"whether this machine may suspend cannot be looked at: {error.info.message}")
        return
    masked = {name for name, unit in shown.items() if unit.load_state == "masked"}
    open_targets = [] if SLEEP in masked else [name for name in TARGETS if name in shown and name not in masked]
    if not open_targets:
        yield fine("suspend", "systemd's sleep targets are masked")
        return
    if case.serves:
        yield warning(
            "suspend",
            f"this machine is to serve from boot on, and may go to sleep: {', '.join(open_targets)} not masked",
            MASK,
        )
    else:
        yield fine("suspend", "this machine may go to sleep, and its services with it", f"a server should not: {MASK}")
    yield from _kept(case, {name for name in HELPERS if name in shown and shown[name].file_state == "enabled"})


def _kept(case: Case, enabled: set[str]) -> Iterator[Check]:
    """Whether what is in GPU memory survives a suspend, as the module's options say."""
    told = case.computer.nvidia()
    if told is None or "PreserveVideoMemoryAllocations" not in told.params:
        return
    name = "GPU memory over a suspend"
    if told.params["PreserveVideoMemoryAllocations"] == "0":
        yield warning(
            name,
            "it is lost: after a resume services fail, or answer from the CPU",
            "options nvidia NVreg_PreserveVideoMemoryAllocations=1 in /etc/modprobe.d/nvidia.conf, and: sudo systemctl"
            f" enable {' '.join(HELPERS)}; or mask the sleep targets: {MASK}",
        )
        return
    missing = [helper for helper in HELPERS if helper not in enabled]
    if missing and told.params.get("UseKernelSuspendNotifiers", "0") == "0":
        yield warning(
            name,
            f"the driver is told to keep it, but {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not"
            " enabled: a suspend fails or loses it",
            f"sudo systemctl enable {' '.join(missing)}",
        )
        return
    yield fine(name, "the driver keeps it (NVreg_PreserveVideoMemoryAllocations=1)")
