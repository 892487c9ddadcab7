"""Secrets in the home: `<home>/secrets/<id>.json`, which its owner alone can read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gpumod.adapters.files import ensure_private_dir, open_own, remove_file, write_atomic
from gpumod.domain.base import is_id
from gpumod.domain.errors import Failed, UsageError
from gpumod.domain.secrets import why_no_variable


class SecretFiles:
    """Implements :class:`gpumod.ports.secrets.Secrets`. Reads each time: another gpumod may have written."""

    def __init__(self, home: Path) -> None:
        self._folder = home / "secrets"

    def names(self, service: str) -> tuple[str, ...]:
        return tuple(sorted(self.values(service)))

    def values(self, service: str) -> Mapping[str, str]:
        """Every secret of a service. Raises Failed (`bad-secrets`) for a file that is damaged, or open to others."""
        path = self._path(service)
        try:
            with open_own(path) as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                values = json.loads(file.read())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise _bad(path, str(error), "remove it, and set the secrets again") from error
        if mode & 0o077:
            raise _bad(path, f"others can read it (its mode is {mode:o})", f"chmod 600 {path}; then change the secrets")
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise _bad(path, "it holds something else than names and texts", "remove it, and set the secrets again")
        for name, value in values.items():
            if why := why_no_variable(name, value):
                raise _bad(path, f"{name[:80]!r}: {why}", "remove it, and set the secrets again")
        return values

    def put(self, service: str, name: str, value: str | None) -> None:
        """Change one value (None: remove it), and leave the others. Whoever calls it is alone at that."""
        path = self._path(service)
        _remove_drafts(path)
        values = {key: old for key, old in self.values(service).items() if key != name}
        if value is not None:
            values[name] = value
        if not values:
            remove_file(path)
            return
        try:
            ensure_private_dir(path.parent)
            write_atomic(path, json.dumps(values))
        except OSError as error:
            raise _bad(path, error.strerror or str(error), "check the disk and the folder") from error

    def forget(self, service: str) -> None:
        _remove_drafts(self._path(service))
        remove_file(self._path(service))

    def _path(self, service: str) -> Path:
        if not is_id(service):
            raise UsageError("bad-id", f"{service[:80]!r} is no id of a service", why="it becomes part of a path")
        return self._folder / f"{service}.json"


def _remove_drafts(path: Path) -> None:
    """What was killed while it wrote left one, with every value in it."""
    for draft in path.parent.glob(f".{path.name}.*.tmp"):
        remove_file(draft)


def _bad(path: Path, why: str, hint: str) -> Failed:
    return Failed("bad-secrets", f"the secrets in {path} cannot be used", why=why, hint=hint)
