"""daemon-reload: the manager reads all units anew. On a machine with containers that is not harmless.

The system manager then sets the devices of every control group again, and containers that were given GPUs by a hook,
and not by systemd, lose them ("Failed to initialize NVML: Unknown Error").
"""

from __future__ import annotations

from pathlib import Path

from gpumod.adapters.containers import container_in
from gpumod.adapters.process.proc import all_pids
from gpumod.adapters.systemd.manager import Manager, refused
from gpumod.domain.errors import Failed
from gpumod.domain.settings import Settings

GPU_DEVICE = "dev/nvidiactl"


class Reloading:
    """Rereads the units of `manager`, unless containers would pay for it."""

    def __init__(self, manager: Manager, settings: Settings) -> None:
        self._manager = manager
        self._careful = manager.scope == "system" and settings.daemon_reload == "careful"

    async def reload(self) -> None:
        """Have the manager reread its units. Raises Failed `containers-with-gpus`, and what systemd answers."""
        found = containers_with_gpus() if self._careful else ()
        if found:
            raise Failed(
                "containers-with-gpus",
                f"systemd must reread its units, which can take the GPUs away from {len(found)} running containers",
                why=f"the text of a unit changed that it holds, and containers have GPUs: {', '.join(found)}",
                hint="stop the containers first, or accept it: GPUMOD_DAEMON_RELOAD=always gpumod ...",
                containers=list(found),
            )

        answer = await self._manager.call("daemon-reload")
        if answer.code:
            raise refused(self._manager.scope, "did not reread its units", answer)


def containers_with_gpus(proc: Path = Path("/proc")) -> tuple[str, ...]:
    """The ids (12 digits) of running containers in which there is an NVIDIA GPU's control device."""
    found: set[str] = set()
    for pid in all_pids():
        try:
            box = container_in((proc / str(pid) / "cgroup").read_text())
            # An lxc's devices are its own affair: systemd does not set them again.
            if box and box.engine != "lxc" and (proc / str(pid) / "root" / GPU_DEVICE).exists():
                found.add(box.id)
        except OSError:  # it ended, or is somebody else's
            continue
    return tuple(sorted(found))
