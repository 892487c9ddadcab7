"""NVIDIA's kernel module, and the device files without which no service can use a GPU."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.operations.checks.case import Case, fine, problem
from gpumod.operations.results import Check

CONTROL, UVM = "/dev/nvidiactl", "/dev/nvidia-uvm"


def check_devices(case: Case) -> Iterator[Check]:
    told = case.computer.nvidia() if case.real else None
    if told is None:  # the probe says what is missing, where it is NVIDIA's
        return
    paths = {device.path for device in told.devices}
    missing = [path for path in (CONTROL, UVM) if path not in paths]
    if missing:
        yield problem(
            "devices",
            f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not there: CUDA cannot begin, and a unit"
            " with NoNewPrivileges= cannot make it",
            "sudo nvidia-modprobe -u -c=0 (at every boot: enable nvidia-persistenced)",
        )
    closed = [device.path for device in told.devices if not device.usable]
    if closed:
        yield problem(
            "devices",
            f"this user may not use {', '.join(closed)}",
            "look at `ls -l /dev/nvidia*`; membership in the group video or render is often missing (then log in anew)",
        )
    if not missing and not closed:
        yield fine(
            "devices", f"module {told.version or 'of an unknown version'}; {len(paths)} device files, all usable"
        )
