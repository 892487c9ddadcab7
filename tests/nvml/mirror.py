"""Tells the stand-in of NVIDIA's library what the ledger of a simulated machine says (its folder comes by stdin)."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine

EVERY_S = 0.004
AMPERE, ADA = 7, 8


def told(machine: Machine, ledger: Ledger, reserved_mb: int, *, mig: bool) -> str:
    """The file `cards`. What the dead and leaks hold is in use, and of no process. With `mig` all are of one GPU."""
    rows = ledger.rows()
    lines = [f"gpu 0 81920 0 0 {AMPERE} GPU-sim-parent NVIDIA A100"] if mig else []
    for card in machine.gpus():
        index, used_mb = card["index"], ledger.used_mb(card["index"], rows)
        if mig:
            lines.append(f"mig 0 {index} {card['total_mb']} {used_mb} MIG-sim-{index} {card['name']}")
        else:
            total_mb = card["total_mb"] + reserved_mb
            lines.append(f"gpu {index} {total_mb} {reserved_mb} {used_mb} {ADA} GPU-sim-{index} {card['name']}")
    for row in rows:
        if row["pid"] is not None and row["died"] is None and row["gpu"] is not None:
            place = f"0 {row['pid']} {row['mb']} {row['gpu']}" if mig else f"{row['gpu']} {row['pid']} {row['mb']} -1"
            lines.append(f"proc {place}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("driver", type=Path)
    parser.add_argument("--mig", action="store_true")
    parser.add_argument("--reserved", type=int, default=0)
    options = parser.parse_args()
    machine = Machine(sys.stdin.read())
    ledger = Ledger(machine)
    parent, last = os.getppid(), ""
    while machine.exists() and os.getppid() == parent:
        now = told(machine, ledger, options.reserved, mig=options.mig)
        if now != last:
            new = options.driver / "cards.new"
            new.write_text(now)
            new.replace(options.driver / "cards")
            last = now
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
