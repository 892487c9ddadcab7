"""The nursery: a small process that forks the shims, so that starting Python is paid once and not for every service.

Run as `python -I -S nursery.py` with a socket as stdin. Each message is a run's nonce, with two descriptors: a file
with the shim's orders, and a pipe for its answer. They become the shim's stdin, and its stdout and stderr. The nursery
ends when the other side closes the socket, as it does when gpumod is killed; shims go on.
"""

# Little of the standard library, as in the shim: every start in a run waits for this one.
# ruff: noqa: PTH120

import _signal  # type: ignore[import-not-found]  # as in the shim
import _socket
import ctypes
import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

import shim  # type: ignore[import-not-found]  # beside this file, and no part of a package here

PR_SET_NAME = 15
NONCE_BYTES = 64
"""The longest nonce: so long is the value of GPUMOD_NONCE that the nursery is started with."""


def main() -> None:
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # whatever gpumod itself inherited
    os.setsid()
    os.chdir("/")
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NAME, b"gpumod-nursery", 0, 0, 0)
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)  # shims that end leave no zombies
    line = _socket.socket(fileno=0)
    size = ctypes.sizeof(ctypes.c_int)
    while True:
        nonce, given, _, _ = line.recvmsg(NONCE_BYTES, _socket.CMSG_SPACE(2 * size))
        if not nonce:
            return
        data = given[0][2]
        orders, answer = (int.from_bytes(data[at : at + size], sys.byteorder) for at in (0, size))
        if os.fork() == 0:
            become(libc, nonce, orders, answer)
            shim.main()
            return
        os.close(orders)
        os.close(answer)


def become(libc: ctypes.CDLL, nonce: bytes, orders: int, answer: int) -> None:
    """Turn this fork of the nursery into the shim of one run: found by the run's nonce from here on."""
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    os.setsid()
    # What /proc/PID/environ shows are the bytes at the start of the process: they are written over in place.
    libc.getenv.restype = ctypes.c_void_p
    ctypes.memmove(libc.getenv(b"GPUMOD_NONCE"), nonce.ljust(NONCE_BYTES, b"\0"), NONCE_BYTES)
    for source, number in ((orders, 0), (answer, 1), (answer, 2)):
        os.dup2(source, number)
    os.close(orders)
    os.close(answer)


if __name__ == "__main__":
    main()
