"""A service's own folder, `<home>/services/<id>/`, with files for its container; and beside it, in
`<home>/containers/<id>/`, what is noted of its container."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gpumod.api import Failed, LaunchFile, UsageError, is_id
from gpumod_docker.definition import filled

RECORDS = ".run"
"""Of the process supervisor, in the same folder."""


class ServiceFolder:
    """Everything is private. Where a container needs the folder it can read it, and change nothing."""

    def __init__(self, home: Path, service: str) -> None:
        """Raises UsageError `bad-id`: an id becomes part of a path here."""
        if not is_id(service):
            raise UsageError(
                "bad-id", f"{service[:80]!r} is no id of a service", why="it may not become part of a path"
            )
        self.service = service
        self.path = home / "services" / service
        self._notes = home / "containers" / service

    def write(self, files: Sequence[LaunchFile]) -> None:
        """Replace files, each atomically. Raises UsageError `bad-file-name`, Failed `cannot-write`."""
        for file in files:
            self.check_name(file)
            self._put(self.path / file.name, filled(file.content, self.path), file.mode)

    def _put(self, path: Path, text: str, mode: int) -> None:
        with self._writing(path):
            _make(path.parent)
            _replace(path, text, mode)

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Raise Failed `cannot-write` for what the file system refuses."""
        try:
            yield
        except OSError as error:
            raise Failed(
                "cannot-write",
                f"{path} of service {self.service} cannot be written",
                why=error.strerror or str(error),
                hint="check the disk's free space and the folder's permissions",
            ) from error

    def share(self) -> None:
        """Let a container read what is in the folder, whoever its image runs as: its root has no rights over others'
        files, and may be nobody here. The home around the folder is still closed to other users of this machine."""
        with self._writing(self.path):
            for path in (self.path, *self.path.rglob("*")):
                if RECORDS not in path.relative_to(self.path).parts and not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() else 0o644)

    def check_name(self, file: LaunchFile) -> None:
        name = PurePosixPath(file.name)
        if name.is_absolute() or not name.parts or ".." in name.parts or name.parts[0] == RECORDS:
            raise UsageError(
                "bad-file-name",
                f"service {self.service} may not have a file named {file.name!r}",
                why="it would lie outside of the service's folder, or among gpumod's own records",
            )

    def prepare(self) -> None:
        """Raises Failed `cannot-write`, as all that writes here does."""
        with self._writing(self.path):
            _make(self.path)

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        self._put(self._notes / name, json.dumps(dict(data)), 0o600)

    def noted(self, name: str) -> Mapping[str, Any]:
        try:
            data = json.loads((self._notes / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def unnote(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._notes / name).unlink()

    @contextlib.contextmanager
    def noting(self, name: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A :meth:`note` for as long as this lasts: what was noted is then removed, and a thread that is left behind
        notes nothing any more."""
        writing, over = threading.Lock(), False

        def note(data: Mapping[str, Any]) -> None:
            with writing:
                if not over:
                    self.note(name, data)

        try:
            yield note
        finally:
            with writing:
                over = True
                self.unnote(name)  # also that of one that was killed

    def forget(self) -> None:
        """Remove what was noted."""
        shutil.rmtree(self._notes, ignore_errors=True)


def _make(folder: Path) -> None:
    """Make a folder, and those above it, for this user alone."""
    for above in reversed((folder, *folder.parents)):
        if not above.exists():
            above.mkdir(mode=0o700, exist_ok=True)


def _replace(path: Path, text: str, mode: int) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
