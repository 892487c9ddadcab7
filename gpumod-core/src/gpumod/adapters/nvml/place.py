"""Where the changer's lock of a real machine lives: one folder for every home and every user."""

from __future__ import annotations

import stat
from pathlib import Path

PLACES = (Path("/run/lock"), Path("/var/lock"), Path("/tmp"))  # noqa: S108 - the lock itself refuses links
NAME = "gpumod"


def shared_folder() -> Path:
    """A folder in the first of the places that everybody may write into (sticky, so that nobody removes another's).

    The choice looks at the places alone, not at who asks: root and everybody else must come to the same one.
    """
    for place in PLACES:
        try:
            mode = place.stat().st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & stat.S_IWOTH:
            return place / NAME
    return PLACES[-1] / NAME
