"""Which container a process is in, as the names of its control groups tell."""

from __future__ import annotations

import re
from pathlib import Path

from gpumod.ports.foreign import Container

ENGINES = {"libpod": "podman", "libpod-payload": "podman", "cri-containerd": "containerd", "crio": "cri-o"}
"""Whose containers they are, where that is not the name that stands in the control group."""
_GROUP = re.compile(
    r"(?P<by>docker|libpod-payload|libpod|cri-containerd|crio|nerdctl|containerd)[-/:](?P<id>[0-9a-f]{12})[0-9a-f]{0,52}"
    r"|/(?P<bare>[0-9a-f]{12})[0-9a-f]{52}(?=$|/)"  # of a pod, where the cgroups are not systemd's
    r"|/lxc(?:\.payload\.|/)(?P<lxc>[^/\n]+)",
    re.MULTILINE,
)


def container_in(text: str) -> Container | None:
    """The innermost container that the text of a /proc/PID/cgroup names."""
    found = None
    for found in _GROUP.finditer(text):  # noqa: B007 - the last one is asked for
        pass
    if found is None:
        return None
    if found["lxc"]:
        return Container(engine="lxc", id=found["lxc"])
    by = found["by"] or ""
    return Container(engine=ENGINES.get(by, by), id=found["id"] or found["bare"])


def container_of(pid: int, proc: Path = Path("/proc")) -> Container | None:
    """The container that a process is in; None where it is in none, or in the one that we are in. Raises OSError."""
    found = container_in((proc / str(pid) / "cgroup").read_text("utf-8", "replace"))
    if found is not None and found == container_in(Path("/proc/self/cgroup").read_text("utf-8", "replace")):
        return None
    return found
