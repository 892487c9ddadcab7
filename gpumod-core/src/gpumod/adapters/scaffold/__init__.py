"""Writes a new third-party distribution: a driver with its tests, whole and installable, for its author to change."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from string import Template

from gpumod import __version__
from gpumod.domain.errors import Failed, UsageError

FILES = Path(__file__).parent / "files"
"""Templates by the path that each is written to, with `.tmpl` behind it. `$name` and the like are filled in."""


def write_distribution(name: str, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Write `gpumod-NAME` into `folder`: all of it or nothing. Its folder, and the files in it, sorted.

    Raises UsageError `no-such-folder` and `exists`, and Failed `cannot-write`.
    """
    target = folder / f"gpumod-{name}"
    if not folder.is_dir():
        raise UsageError("no-such-folder", f"there is no folder {folder}", hint="make it first, or name another one")
    if os.path.lexists(target):
        raise UsageError("exists", f"{target} is there already", why="nothing is overwritten", hint="take another name")
    try:
        new = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=folder))
        try:
            written = _fill(new, _values(name))
            new.chmod(0o755)
            new.rename(target)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
    except OSError as error:
        why = error.strerror or str(error)
        raise Failed("cannot-write", f"{target} was not written", why=why, hint="name another folder") from error
    return target, written


def _values(name: str) -> dict[str, str]:
    words = name.split("-")
    return {
        "name": name,
        "module": f"gpumod_{'_'.join(words)}",
        "class": "".join(word.capitalize() for word in words),
        "core": ".".join(__version__.split(".")[:3]),
    }


def _fill(folder: Path, values: dict[str, str]) -> tuple[str, ...]:
    written = []
    for template in sorted(FILES.rglob("*.tmpl")):
        inside = Template(str(template.relative_to(FILES).with_suffix(""))).substitute(values)
        path = folder / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template.read_text("utf-8")).substitute(values), "utf-8")
        written.append(inside)
    return tuple(sorted(written))
