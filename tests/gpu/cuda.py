"""CUDA's driver library, as far as tests need it: a process that takes and gives back memory of its first GPU."""

from __future__ import annotations

import ctypes
import sys

MIB = 1024 * 1024


class Cuda:
    """A context on the first visible GPU. Raises OSError where there is no CUDA."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._held: list[ctypes.c_void_p] = []
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        # the primary context: its call has had one form through all versions
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self.take(2)  # what is loaded for the first write is the context's own
        self.give_back()

    def take(self, mb: int) -> None:
        """Take `mb` MiB more, and touch them."""
        pointer = ctypes.c_void_p()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(mb * MIB))
        self._call("cuMemsetD8_v2", pointer, ctypes.c_ubyte(1), ctypes.c_size_t(mb * MIB))
        self._call("cuCtxSynchronize")
        self._held.append(pointer)

    def give_back(self) -> None:
        """Free all that was taken; the context stays."""
        for pointer in self._held:
            self._call("cuMemFree_v2", pointer)
        self._held.clear()

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise OSError(f"{name} failed with CUDA error {code}")


def main() -> None:
    """Take the MiB that the arguments say and end; without arguments obey stdin: `take MB`, `give`."""
    cuda = Cuda()
    for mb in sys.argv[1:]:
        cuda.take(int(mb))
    if sys.argv[1:]:
        return
    print("ready", flush=True)
    for line in sys.stdin:
        if line.startswith("take"):
            cuda.take(int(line.split()[1]))
        else:
            cuda.give_back()
        print("done", flush=True)


if __name__ == "__main__":
    main()
