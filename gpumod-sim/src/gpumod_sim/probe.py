"""The GPU probe of a simulated machine: it reads the ledger as NVML would be read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpumod.api import GpuProcess, GpuReading, MachineLacks, Ram
from gpumod_sim import procs
from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine

NO_MACHINE_HINT = 'gpumod init --sim "RTX 4090:24564"'


def no_machine(folder: str | None) -> str | None:
    """Why there is no simulated machine, or None where there is one."""
    if not folder:
        return "this home has no simulated machine"
    return None if Machine(folder).exists() else f"there is no simulated machine in {folder}"


class SimProbe:
    name = "sim"

    def __init__(self, folder: str) -> None:
        self._machine = Machine(folder)
        self._ledger = Ledger(self._machine)

    def read(self) -> tuple[tuple[GpuReading, ...], tuple[GpuProcess, ...]]:
        """The cards, and the living processes on them. What the dead and leaks hold is in use and nobody's."""
        why = no_machine(self._machine.folder)
        if why:
            raise MachineLacks("no-simulated-machine", "there is no simulated machine", why=why, hint=NO_MACHINE_HINT)
        rows = self._ledger.rows()
        readings = []
        for card in self._machine.gpus():
            used_mb = self._ledger.used_mb(card["index"], rows)
            readings.append(
                GpuReading(
                    index=card["index"],
                    name=card["name"],
                    uuid=f"GPU-sim-{card['index']}",
                    total_mb=card["total_mb"],
                    used_mb=used_mb,
                    free_mb=max(0, card["total_mb"] - used_mb),
                )
            )
        processes = tuple(
            GpuProcess(pid=pid, name=procs.name(pid) or row["service"], gpu=row["gpu"], vram_mb=row["mb"])
            for row in rows
            if row["died"] is None and row["gpu"] is not None and (pid := self._ledger.pid_here(row)) is not None
        )
        return tuple(readings), processes

    def ram(self) -> Ram:
        """Host RAM: the machine's own where it is simulated (less what sleepers hold), else the real one's."""
        total_mb = self._ledger.total_mb(None)
        if total_mb is not None:
            return Ram(total_mb=total_mb, available_mb=max(0, total_mb - self._ledger.used_mb(None)))
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
        total_kib, available_kib = (int(fields[key].split()[0]) for key in ("MemTotal", "MemAvailable"))
        return Ram(total_mb=total_kib // 1024, available_mb=available_kib // 1024)

    def child_env(self, gpus: Sequence[int]) -> dict[str, str]:
        """The GPUs by index; and the machine, for a service that is started by a command of the user's own."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(str(gpu) for gpu in gpus), "GPUMOD_SIM_MACHINE": self._machine.folder}

    def machine_dir(self) -> Path:
        return Path(self._machine.folder)
