"""Files and folders: whether they are there, whose they are, and what may be done with them."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gpumod.adapters.files import free_disk_mb
from gpumod.ports.checkup import PlaceFacts


def place(path: Path) -> PlaceFacts:
    """Links are followed. `free_mb` is what its file system has."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return PlaceFacts(kind="missing")
    except OSError:
        return PlaceFacts(kind="hidden")
    folder = stat.S_ISDIR(status.st_mode)
    return PlaceFacts(
        kind="folder" if folder else "file",
        mode=stat.S_IMODE(status.st_mode),
        owner=status.st_uid,
        readable=os.access(path, os.R_OK | (os.X_OK if folder else 0)),
        writable=os.access(path, os.W_OK),
        free_mb=free_disk_mb(path),
    )


def inside(folder: Path) -> Mapping[str, PlaceFacts]:
    """What is in `folder`, by name; nothing where it is not there, or may not be looked into."""
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return {}
    return {name: place(folder / name) for name in names}
