"""Whose a process is, as its variables tell: of which service of which home gpumod started it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from gpumod.adapters.files import HOME_ID_FILE, is_home_id, open_own
from gpumod.domain.base import has_control_characters, is_id
from gpumod.domain.errors import GpumodError


class Owner(NamedTuple):
    """`home` is None where the process does not show which folder it is."""

    service: str
    home_id: str
    home: Path | None


def owner_of(pid: int) -> Owner | None:
    """The service whose process (or whose child) it is; None for any other, and where that may not be looked at."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        folder = Path(os.readlink(f"/proc/{pid}/cwd"))  # noqa: PTH115 - as the kernel tells it
    except OSError:
        return None
    said = dict(word.decode("utf-8", "replace").split("=", 1) for word in words if b"=" in word)
    service, home_id = said.get("GPUMOD_SERVICE", ""), said.get("GPUMOD_HOME_ID", "")
    if not (is_id(service) and is_home_id(home_id)):  # anybody may write these
        return None
    home = folder.parent.parent
    could_be = folder == home / "services" / service and not has_control_characters(str(home))
    return Owner(service, home_id, home if could_be and _id_in(home) == home_id else None)


def _id_in(home: Path) -> str:
    try:
        with open_own(home / HOME_ID_FILE) as file:
            return file.read(64).decode("utf-8", "replace").strip()
    except (OSError, GpumodError):
        return ""
