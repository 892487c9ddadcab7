"""The calls of NVML that gpumod makes, over the binding `pynvml`: old drivers and odd answers are dealt with here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pynvml  # type: ignore[import-untyped]  # it has no types

from gpumod.adapters.nvml.faults import FUNCTION_NOT_FOUND, LIBRARY_NOT_FOUND, driver_error

MIB = 1024 * 1024
ARCHITECTURES = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
LISTS = ("Compute", "Graphics", "MPSCompute")
"""The lists of processes; one may stand in several."""
NOT_SUPPORTED = 3
NOT_THERE = (2, NOT_SUPPORTED, 4, 6, FUNCTION_NOT_FOUND)
"""Of MIG, or of a place for an instance: no argument, not supported, not permitted to us, none there."""

Error: type[Exception] = pynvml.NVMLError
"""What every call here raises; `.value` is the code. (Its instances cannot be hashed or compared.)"""


class Memory(NamedTuple):
    """MiB of a card. `reserved_mb` is what the driver keeps for itself, 0 where it does not tell."""

    total_mb: int
    free_mb: int
    reserved_mb: int


def begin() -> None:
    """Initialise NVML. Raises MachineLacks that says what is wrong with the driver."""
    try:
        pynvml.nvmlInit()
    except Error as error:
        # A library that lacks even this function is somebody else's file.
        code = LIBRARY_NOT_FOUND if error_code(error) == FUNCTION_NOT_FOUND else error_code(error)
        raise driver_error(code, str(error)) from error


def end() -> None:
    """Let go of the driver: while somebody holds it, no GPU can be reset and no module unloaded."""
    optional(pynvml.nvmlShutdown)


def error_code(error: Exception) -> int:
    return int(getattr(error, "value", 999))


def optional(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call says, or None where the driver or the card does not support it, or does not permit it."""
    try:
        return call(*arguments)
    except Error:
        return None


def memory(handle: Any) -> Memory:
    """Total and free as the driver tells them. `used` is never asked: drivers disagree on what it includes."""
    try:
        now = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
        reserved = now.reserved
    except Error as error:
        if error_code(error) not in (NOT_SUPPORTED, FUNCTION_NOT_FOUND, 25):
            raise
        now = pynvml.nvmlDeviceGetMemoryInfo(handle)
        reserved = 0
    return Memory(now.total // MIB, now.free // MIB, math.ceil(reserved / MIB))


def processes(handle: Any) -> dict[int, int | None] | None:
    """MiB by pid; a value is None where the driver does not tell it, and all is None where it tells no processes."""
    found: dict[int, int | None] = {}
    told = False
    for kind in LISTS:
        rows = _listed(kind, handle)
        told = told or (rows is not None and kind == "Compute")
        for row in rows or ():
            held_mb = None if row.usedGpuMemory is None else math.ceil(row.usedGpuMemory / MIB)
            known = found.get(row.pid)
            found[row.pid] = held_mb if known is None else max(known, held_mb or 0)
    return found if told else None


def _listed(kind: str, handle: Any) -> list[Any] | None:
    """One list of processes; None where it is not supported or not permitted. Older drivers have an older call."""
    name = f"nvmlDeviceGet{kind}RunningProcesses"
    for call in (name, f"{name}_v2"):
        try:
            return list(getattr(pynvml, call)(handle))
        except pynvml.NVMLLibraryMismatchError:  # no subclass of NVMLError
            continue
        except Error as error:
            if error_code(error) in (NOT_SUPPORTED, FUNCTION_NOT_FOUND, 4):
                return None
            raise
    return None


def architecture(handle: Any) -> str:
    """Its name; "unknown(N)" for one that is newer than this table, empty where it is not told."""
    number = optional(pynvml.nvmlDeviceGetArchitecture, handle)
    return "" if number is None else ARCHITECTURES.get(number, f"unknown({number})")


def capability(handle: Any) -> str:
    """The CUDA compute capability, as "8.9"."""
    told = optional(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return f"{told[0]}.{told[1]}" if told else ""


def versions() -> dict[str, str]:
    """What is told of the driver: `driver`, `NVML` and the newest `CUDA` that it serves."""
    cuda = optional(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    told = {
        "driver": optional(pynvml.nvmlSystemGetDriverVersion),
        "NVML": optional(pynvml.nvmlSystemGetNVMLVersion),
        "CUDA": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
    }
    return {name: value for name, value in told.items() if value}


def mig(handle: Any) -> tuple[bool, bool]:
    """Whether MIG is on now, and whether it will be after a reset. Cards that have no MIG say that it is off.

    Any other error is raised, here and below: the cards after this one would change places.
    """
    told = _of_mig(pynvml.nvmlDeviceGetMigMode, handle)
    return (bool(told[0]), bool(told[1])) if told else (False, False)


def mig_instances(handle: Any) -> list[Any]:
    """The handles of the MIG instances of a card."""
    places = range(_of_mig(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)
    found = (_of_mig(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place) for place in places)
    return [instance for instance in found if instance is not None]


def _of_mig(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call says, or None where it says that there is no such thing."""
    try:
        return call(*arguments)
    except Error as error:
        if error_code(error) not in NOT_THERE:
            raise
        return None


def process_name(pid: int) -> str:
    """What the driver says that a process is called (its path), or an empty text."""
    return str(optional(pynvml.nvmlSystemGetProcessName, pid) or "")


def persistence(handle: Any) -> bool | None:
    told = optional(pynvml.nvmlDeviceGetPersistenceMode, handle)
    return None if told is None else bool(told)


def count() -> int:
    return int(pynvml.nvmlDeviceGetCount())


def handle_of(number: int) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(number)


def name_of(handle: Any) -> str:
    return _text(pynvml.nvmlDeviceGetName(handle))


def uuid_of(handle: Any) -> str:
    return _text(pynvml.nvmlDeviceGetUUID(handle))


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
