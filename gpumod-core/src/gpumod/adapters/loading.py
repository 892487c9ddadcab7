"""Signs that a process loads a model: what it has read, and which downloads it has open, as /proc tells."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from gpumod.domain.machine import LoadSigns

UNFINISHED = (".incomplete", ".downloadInProgress", ".part")
"""How files end that are still being fetched: those of huggingface_hub, of llama.cpp, and of many others."""

_PROC = Path("/proc")
_MIB = 1024 * 1024
_READ = re.compile(r"^(?:rchar|read_bytes): (\d+)$", re.MULTILINE)


def load_signs(pids: Collection[int]) -> LoadSigns:
    """The signs of these processes; what is gone, or is another user's, gives none."""
    downloads: dict[str, float] = {}
    for pid in pids:
        downloads |= _downloads(pid)
    return LoadSigns(read_mb=sum(map(_read_mb, pids)), downloads=downloads)


def _read_mb(pid: int) -> float:
    """`rchar` is what it read with read(2); weights that are mapped into memory are in `read_bytes` alone."""
    try:
        told = (_PROC / str(pid) / "io").read_text()
    except OSError:
        return 0.0
    return max((int(number) for number in _READ.findall(told)), default=0) / _MIB


def _downloads(pid: int) -> Iterator[tuple[str, float]]:
    with contextlib.suppress(OSError):
        for link in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                name = link.readlink().name
                if name.endswith(UNFINISHED):
                    # blocks, not the length: some make the file as long as it will be at once
                    yield name, link.stat().st_blocks * 512 / _MIB
