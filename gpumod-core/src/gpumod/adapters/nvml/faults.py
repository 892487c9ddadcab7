"""What NVML's error codes mean for a person: of the driver as a whole, and of one card."""

from __future__ import annotations

from gpumod.domain.errors import ErrorInfo, MachineLacks

LIBRARY = "libnvidia-ml.so.1"

NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
MISMATCH = 18

_MODULES = "nvidia_uvm nvidia_drm nvidia_modeset nvidia"
_DRIVER = {
    LIBRARY_NOT_FOUND: (
        "no-nvidia-driver",
        "there is no NVIDIA driver on this machine",
        f"its library {LIBRARY} cannot be loaded",
        "install the driver (in a container: run it with --gpus all); without a GPU: gpumod init --sim NAME:MB",
    ),
    DRIVER_NOT_LOADED: (
        "driver-not-loaded",
        "the NVIDIA driver is installed, but not loaded",
        "the kernel has no nvidia module",
        "sudo modprobe nvidia; if that fails, `sudo dmesg` tells why (Secure Boot, nouveau, a kernel that was updated)",
    ),
    MISMATCH: (
        "driver-mismatch",
        "the NVIDIA driver was updated, and the old one is still loaded",
        "the library and the kernel module have different versions: no program can begin to use the GPU now",
        f"reboot; or end all that uses the GPU, then: sudo rmmod {_MODULES} && sudo modprobe nvidia",
    ),
    NO_PERMISSION: (
        "gpu-no-permission",
        "this user may not read the GPUs",
        "the driver refuses it",
        "look at `ls -l /dev/nvidia*`; membership in the group video or render is often missing",
    ),
    TIMEOUT: (
        "gpu-timeout",
        "the NVIDIA driver does not answer",
        "it gave up waiting for a GPU",
        "`sudo dmesg | grep -i xid` tells whether a GPU is sick; nvidia-smi hangs too then, and a reboot helps",
    ),
    FUNCTION_NOT_FOUND: (
        "driver-too-old",
        "the NVIDIA driver is too old",
        "it lacks a function that gpumod needs",
        "update the driver (450 or newer)",
    ),
}

_CARD = {
    GPU_IS_LOST: (
        "gpu-lost",
        "is lost",
        "it fell off the bus, or its driver cannot reach it any more",
        "`sudo dmesg | grep -i xid` tells why; a reboot brings it back, if its power and its seat are sound",
    ),
    RESET_REQUIRED: (
        "gpu-reset-required",
        "has to be reset",
        "it met an error that only a reset clears",
        "end everything that uses it, then: sudo nvidia-smi --gpu-reset -i {index}; or reboot",
    ),
    NO_PERMISSION: (
        "gpu-no-permission",
        "may not be read by this user",
        "the driver refuses it",
        "look at `ls -l /dev/nvidia*`, and in a container at the devices that it was given",
    ),
    TIMEOUT: (
        "gpu-timeout",
        "does not answer",
        "the driver gave up waiting for it",
        "`sudo dmesg | grep -i xid` tells whether it is sick; a reboot helps",
    ),
}
LEAVE_OUT = "; to go on without it: gpumod settings set cuda_devices with the others"


def driver_error(code: int, text: str) -> MachineLacks:
    """The error of a call that concerns the whole driver. `text` is NVML's own word for `code`."""
    name, message, why, hint = _DRIVER.get(
        code, ("nvml-failed", "the NVIDIA driver answers with an error", "", "does `nvidia-smi` work?")
    )
    return MachineLacks(name, message, why=why or f"{text} (NVML error {code})", hint=hint, nvml=code)


def card_fault(code: int, text: str, index: int, name: str) -> ErrorInfo:
    """Why one card cannot be used, as data: the others can."""
    kind, message, why, hint = _CARD.get(
        code, ("gpu-failed", "cannot be read", f"{text} (NVML error {code})", "does `nvidia-smi` show it?")
    )
    return ErrorInfo(
        code=kind,
        message=f"GPU {index} ({name}) {message}",
        why=why,
        hint=hint.format(index=index) + LEAVE_OUT,
        details={"gpu": index, "nvml": code},
    )
