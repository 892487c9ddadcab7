"""Volumes: what of this machine a container may see (SEC-D9).

A folder is judged by where it really is: its links are resolved, and paths are compared by whole components. It is
judged when the service is defined and again at each start, and the engine is given the place that was judged, not the
name that was given.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple

from gpumod.api import Failed

SYSTEM = (
    "bin", "boot", "dev", "efi", "etc", "lib", "lib32", "lib64", "libx32", "lost+found", "proc", "run", "sbin", "sys",
    "usr", "root", "var/run", "var/lock", "var/log", "var/spool", "var/backups", "var/cache", "var/mail", "var/www",
    "var/lib/docker", "var/lib/containerd", "var/lib/containers", "var/lib/kubelet", "var/lib/systemd", "var/lib/dpkg",
    "var/lib/cloud", "var/lib/polkit-1", "var/lib/sudo", "var/lib/lxd", "var/lib/incus", "var/lib/libvirt",
    "var/lib/rancher", "var/snap", "snap", "nix",
)  # fmt: skip
"""Under `/`: these, what is in them, and what holds one of them, may not be mounted."""
SHARED = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - refused
"""Other people's files and sockets lie in them: not to be mounted whole, what is in them may be."""
HOMES = "/home"
HIDDEN_BUT_FINE = frozenset({".cache", ".ollama"})
"""Folders with a dot right in somebody's home that hold models; the others hold keys and settings."""
FINE_IN_ROOTS_HOME = (".cache/huggingface", ".ollama", "models")
INSIDE_REFUSED = ("proc", "sys", "dev", "etc", "bin", "sbin", "lib", "lib64", "usr/bin", "usr/sbin", "usr/lib")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Volume(NamedTuple):
    """`source` (an absolute path of this machine, or the name of a volume of the engine) at `target`."""

    source: str
    target: str
    writable: bool = False

    @property
    def is_named(self) -> bool:
        return not self.source.startswith("/")


def read_volume(value: Any) -> Volume:
    """`SOURCE:TARGET` or `SOURCE:TARGET:rw`; read-only unless `rw` is said. Raises ValueError."""
    if isinstance(value, Volume):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no volume: SOURCE:TARGET[:rw]")  # noqa: TRY004  # pydantic collects these
    source, *rest = value.split(":")
    if len(rest) not in (1, 2) or not source:
        raise ValueError(f"{value!r:.80} is no volume: SOURCE:TARGET[:rw]")
    if rest[1:] and rest[1] not in ("ro", "rw"):
        raise ValueError(f"{value!r:.80} is refused: a volume is ro or rw, and {rest[1]!r} is more (SEC-D9)")
    if source.startswith("/"):
        _refuse_odd(source, "source")
        refuse_source(source)
    elif not _NAME.fullmatch(source):
        raise ValueError(f"{source!r:.80} is refused: a source is an absolute path, or the name of a volume (SEC-D9)")
    _refuse_odd(rest[0], "target")
    _refuse_target(rest[0])
    return Volume(source, str(PurePosixPath(rest[0])), writable=rest[1:] == ["rw"])


def _refuse_odd(path: str, what: str) -> None:
    parts = path.split("/")
    if not path.startswith("/") or "//" in path or any(part in (".", "..") for part in parts):
        raise ValueError(f"the {what} {path!r:.80} is refused: an absolute path without '.', '..' and '//' (SEC-D9)")
    if any(char in path for char in ',"\\') or any(ord(char) < 32 or char == "\x7f" for char in path):
        raise ValueError(f"the {what} {path!r:.80} is refused: it holds characters that engines take apart (SEC-D9)")


def _refuse_target(path: str) -> None:
    place = PurePosixPath(path)
    if any(touch(place, PurePosixPath("/", name)) for name in INSIDE_REFUSED):
        raise ValueError(f"the target {path!r:.80} is refused: the container's own system is there (SEC-D9)")


def refuse_source(source: str, keep_out: Sequence[Path] = (), homes: str = HOMES) -> Path:
    """Where `source` really is; raises ValueError where that may not be mounted, or where this user may not look.

    `keep_out` are more places to keep out of (gpumod's home, the engine's socket). What is not there yet is judged by
    its folders.
    """
    place = _real(source)
    told = f"{source!r:.80}" if str(place) == source.rstrip("/") else f"{source!r:.80} (which is {str(place)!r:.80})"
    system = () if _is_fine(place) else tuple(Path("/", name) for name in SYSTEM)
    for refused in (*system, *keep_out):
        if any(touch(place, other) for other in {refused, Path(os.path.realpath(refused))}):
            raise ValueError(f"the volume {told} is refused: {refused} is not for containers (SEC-D9)")
    if place in SHARED:
        raise ValueError(f"the volume {told} is refused: everybody's files and sockets are there (SEC-D9)")
    _refuse_home(place, told, Path(os.path.realpath(homes)))
    try:
        kind = place.stat().st_mode
    except FileNotFoundError:
        return place
    except OSError as error:
        raise _unseen(source, error) from error
    if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
        raise ValueError(f"the volume {told} is refused: it is a socket, a device or a pipe (SEC-D9)")
    return place


def _real(source: str) -> Path:
    """`source` with its links resolved; they would not be, and the engine would, where this user may not look."""
    try:
        return Path(os.path.realpath(source, strict=True))
    except (FileNotFoundError, NotADirectoryError):
        return Path(os.path.realpath(source))
    except OSError as error:
        raise _unseen(source, error) from error


def _unseen(source: str, error: OSError) -> ValueError:
    return ValueError(f"the volume {source!r:.80} is refused: what is there cannot be seen, {error.strerror} (SEC-D9)")


def touch(place: PurePath, refused: PurePath) -> bool:
    """True where one is in the other."""
    return place.is_relative_to(refused) or refused.is_relative_to(place)


def _is_fine(place: Path) -> bool:
    return any(place.is_relative_to(Path("/root", name)) for name in FINE_IN_ROOTS_HOME)


def _homes(place: Path, all_homes: Path) -> Iterable[Path]:
    """Homes that `place` might be in, or hold."""
    yield Path(os.path.realpath(os.path.expanduser("~")))  # noqa: PTH111 - raises nothing
    yield Path("/root")
    yield Path(*place.parts[: len(all_homes.parts) + 1]) if place.is_relative_to(all_homes) else all_homes
    with contextlib.suppress(OSError), os.scandir(all_homes) as found:
        yield from (Path(os.path.realpath(home.path)) for home in found if home.is_symlink())


def _refuse_home(place: Path, told: str, all_homes: Path) -> None:
    """Nobody's whole home, nor the hidden folders in it."""
    for home in _homes(place, all_homes):
        if not touch(place, home):
            continue
        inner = place.relative_to(home).parts if place.is_relative_to(home) else ()
        if not inner:
            raise ValueError(f"the volume {told} is refused: it holds somebody's whole home (SEC-D9)")
        if inner[0].startswith(".") and inner[0] not in HIDDEN_BUT_FINE:
            raise ValueError(f"the volume {told} is refused: {inner[0]} in a home holds keys or settings (SEC-D9)")


def missing_folder(service: str, volume: Volume) -> Failed:
    return Failed(
        "missing-folder",
        f"service {service} cannot have {volume.source} at {volume.target}",
        why="there is no such folder or file",
        hint=f"make it, or change the volumes: gpumod service edit {service}",
    )
