"""A process that holds memory and does nothing else: a foreign one (a game), or a worker in a session of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from gpumod_sim.ledger import Ledger, OutOfMemoryError
from gpumod_sim.machine import Machine

ENDS = (signal.SIGTERM, signal.SIGINT)


def main(folder: str, argv: Sequence[str]) -> int:
    """`SERVICE GPU MB`: hold the memory, write a line when it is held, and stay until a signal or the machine's end."""
    service, gpu, mb = argv[0], int(argv[1]), int(argv[2])
    machine = Machine(folder)
    ledger = Ledger(machine, guest=True)
    try:
        ledger.hold(service, {gpu: mb})
    except OutOfMemoryError as error:
        print(f"CUDA error: out of memory ({error})", flush=True)  # noqa: T201 - what the real program prints
        return 1

    def leave(_number: int, _frame: object) -> None:
        for (
            number
        ) in ENDS:  # a second one (systemd's, and the parent's) would wait for the lock that the first one holds
            signal.signal(number, signal.SIG_IGN)
        ledger.leave(os.getpid())
        os._exit(0)

    for number in ENDS:
        signal.signal(number, leave)
    sys.stdout.write("held\n")
    sys.stdout.flush()
    while machine.exists():
        time.sleep(0.5)
    return 0
