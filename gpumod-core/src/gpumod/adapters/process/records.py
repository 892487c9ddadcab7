"""The supervisor's files: `<home>/services/<id>/` with `.run/` for the shim's records, `<home>/logs/<id>.log`."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from gpumod.adapters.files import ensure_private_dir, lines_backwards, open_own, write_atomic
from gpumod.adapters.launches import filled
from gpumod.adapters.process.tokens import is_token
from gpumod.domain.base import is_id
from gpumod.domain.errors import Failed, UsageError
from gpumod.domain.run import Handle
from gpumod.ports import LaunchFile

LOGS_KEPT = 3
RUN_FOLDER = ".run"
_RUN_BEGINS = re.compile(r"--- gpumod: \S+ started \S+ run \S+ ---")


class Records:
    """Where the files of a home's services are, and what they say.

    `apart` is a folder for those that services read and write themselves, where that is not in the home.
    """

    def __init__(self, home: Path, apart: Path | None = None) -> None:
        self._runs = home / "services"
        self._services = apart or self._runs
        self._logs = home / "logs"

    def folder(self, service: str) -> Path:
        """The service's own folder. Raises UsageError `bad-id`: an id becomes part of a path here."""
        return self._services / _checked(service)

    def log(self, service: str) -> Path:
        return self._logs / f"{_checked(service)}.log"

    def run_folder(self, service: str) -> Path:
        """Where the shim keeps its records."""
        return self._runs / _checked(service) / RUN_FOLDER

    def prepare(self, service: str) -> None:
        """Make the folders of a service, private."""
        run_folder = self.run_folder(service)
        for folder in (self._logs, self._runs, run_folder.parent, run_folder, self._services, self.folder(service)):
            ensure_private_dir(folder)

    def write(self, service: str, files: Sequence[LaunchFile]) -> None:
        """Replace files in the service's folder atomically. Raises UsageError `bad-file-name`."""
        folder = self.folder(service)
        for file in files:
            name = PurePosixPath(file.name)
            if name.is_absolute() or not name.parts or ".." in name.parts or name.parts[0] == RUN_FOLDER:
                raise UsageError(
                    "bad-file-name",
                    f"service {service} may not have a file named {file.name!r}",
                    why="it would lie outside of the service's folder, or among gpumod's own records",
                )
            path = folder / name
            try:
                ensure_private_dir(path.parent)
                # Not synced to the disk: written anew at each start.
                write_atomic(path, filled(file.content, folder), file.mode, durable=False)
            except OSError as error:
                raise Failed(
                    "cannot-write",
                    f"the file {path} of service {service} cannot be written",
                    why=error.strerror or str(error),
                    hint="check the disk's free space and the folder's permissions",
                ) from error

    def run(self, service: str, nonce: str) -> dict[str, Any] | None:
        """The token that the shim of this run wrote, of this boot."""
        record = self._record(service, "run.json")
        token = record.get("token")
        return token if record.get("nonce") == nonce and isinstance(token, dict) and is_token(token) else None

    def last_run(self, service: str) -> dict[str, Any] | None:
        """The token of the last run, whichever that was."""
        token = self._record(service, "run.json").get("token")
        return token if isinstance(token, dict) and is_token(token) else None

    def last_handle(self, handle: Handle) -> Handle | None:
        """`handle` as it was for the last run of its service, whichever that was."""
        token = self.last_run(handle.service)
        nonce = str(self._record(handle.service, "run.json").get("nonce"))
        return None if token is None else handle.model_copy(update={"nonce": nonce, "token": token})

    def last_runs(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Service, nonce and token of the last run of every service that has run since the boot."""
        for folder in sorted(self._runs.glob("*")) if self._runs.is_dir() else ():
            if is_id(folder.name) and (token := self.last_run(folder.name)) is not None:
                yield folder.name, str(self._record(folder.name, "run.json").get("nonce")), token

    def exit(self, service: str, nonce: str) -> tuple[int | None, bool]:
        """(exit code, whether nothing of the run is left) as far as the shim of this run told."""
        record = self._record(service, "exit.json")
        if record.get("nonce") != nonce:
            return None, False
        code = record.get("code")
        return code if isinstance(code, int) else None, record.get("empty") is True

    def _record(self, service: str, name: str) -> dict[str, Any]:
        try:
            with open_own(self.run_folder(service) / name) as file:
                record = json.loads(file.read())
        except (OSError, ValueError, Failed):
            return {}
        return record if isinstance(record, dict) else {}

    def last_lines(self, service: str, lines: int) -> tuple[str, ...]:
        """The last lines of the present or last run, across rotated files; why, where they cannot be read."""
        log = self.log(service)
        pieces = [log, *(log.with_name(f"{log.name}.{number}") for number in range(1, LOGS_KEPT + 1))]
        run = itertools.takewhile(lambda line: not _RUN_BEGINS.fullmatch(line), lines_backwards(pieces))
        try:
            return tuple(itertools.islice(run, max(0, lines)))[::-1]
        except OSError as error:
            return (f"gpumod: the log cannot be read: {error.strerror or error}",)
        except Failed as error:
            return (f"gpumod: the log cannot be read: {error.info.message}",)


def _checked(service: str) -> str:
    if not is_id(service):
        raise UsageError("bad-id", f"{service[:80]!r} is no id of a service", why="it may not become part of a path")
    return service
