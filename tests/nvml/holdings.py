"""Tells the stand-in of NVIDIA's library of one card, and of what processes hold of it by the stand-in of CUDA's."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

EVERY_S = 0.004
TOTAL_MB, RESERVED_MB = 24_576, 388
ADA = 8
MIB = 1024 * 1024


def holds(file: Path) -> int:
    """The MiB in the file of a process; nothing where that is dead."""
    try:
        state = Path("/proc", file.suffix[1:], "stat").read_text().rpartition(")")[2].split()[0]
        return 0 if state in "ZX" else int(file.read_text()) // MIB
    except (OSError, ValueError):
        return 0


def told(folder: Path) -> str:
    """The file `cards`."""
    held = {file.suffix[1:]: mb for file in sorted(folder.glob("held.*")) if (mb := holds(file))}
    lines = [f"gpu 0 {TOTAL_MB} {RESERVED_MB} {sum(held.values())} {ADA} GPU-rehearsal NVIDIA RTX 0000"]
    lines += [f"proc 0 {pid} {mb} -1" for pid, mb in held.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    folder, parent, last = Path(sys.argv[1]), os.getppid(), ""
    (folder / "capacity").write_text(f"{TOTAL_MB - RESERVED_MB}\n")
    while os.getppid() == parent:
        now = told(folder)
        if now != last:
            new = folder / "cards.new"
            new.write_text(now)
            new.replace(folder / "cards")
            last = now
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
