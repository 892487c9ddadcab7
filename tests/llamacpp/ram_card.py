"""A GPU probe for machines without a GPU: the memory of one card is what the models of a test's llama-servers hold.

It is real memory of real processes: it comes while a model is loaded, and is back when its process is gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpumod.api import GpuProbeOffer, GpuProcess, GpuReading, Ram, hookimpl

FOLDER = "LLAMACPP_TEST_CARD"
"""The variable that holds the folder of a test's card; the processes that use the card have it in their environment."""
TOTAL_MB = 1500
PAGES_PER_MB = 1024 * 1024 // os.sysconf("SC_PAGE_SIZE")


class RamCard:
    name = "ram-card"

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def read(self) -> tuple[tuple[GpuReading, ...], tuple[GpuProcess, ...]]:
        processes = tuple(
            GpuProcess(pid=pid, name="llama-server", gpu=0, vram_mb=held_mb) for pid, held_mb in self._holders()
        )
        used_mb = sum(process.vram_mb or 0 for process in processes)
        card = GpuReading(
            index=0,
            name="RAM card",
            uuid="GPU-ram",
            total_mb=TOTAL_MB,
            used_mb=used_mb,
            free_mb=max(0, TOTAL_MB - used_mb),
        )
        return (card,), processes

    def _holders(self) -> Iterator[tuple[int, int]]:
        mine = f"{FOLDER}={self._folder}".encode()
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            with contextlib.suppress(OSError, IndexError):
                folder = Path(f"/proc/{pid}")
                words = (folder / "cmdline").read_bytes().split(b"\0")
                has_model = words[0].endswith(b"llama-server") and (b"-m" in words or b"--model" in words)
                if has_model and b"--version" not in words and mine in (folder / "environ").read_bytes().split(b"\0"):
                    yield pid, int((folder / "statm").read_text().split()[1]) // PAGES_PER_MB

    def ram(self) -> Ram:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (int(fields[key].split()[0]) // 1024 for key in ("MemTotal", "MemAvailable"))
        return Ram(total_mb=total, available_mb=available)

    def child_env(self, gpus: Sequence[int]) -> dict[str, str]:
        return {FOLDER: self._folder}

    def machine_dir(self) -> Path:
        return Path(self._folder)


def _available(_settings: Any) -> str | None:
    return None if FOLDER in os.environ else "no test with such a card runs"


@hookimpl
def gpumod_gpu_probes() -> list[GpuProbeOffer]:
    def make(_settings: Any) -> RamCard:
        return RamCard(os.environ[FOLDER])

    summary = "the memory of a test's llama-servers"
    return [GpuProbeOffer(name="ram-card", summary=summary, order=1000, available=_available, factory=make)]
