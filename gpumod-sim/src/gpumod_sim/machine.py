"""The folder of a simulated machine: its cards, its settings, its lock. Light: the stand-ins import it."""

# pathlib would cost the stand-ins milliseconds at every start.
# ruff: noqa: PTH105, PTH108, PTH110, PTH118, PTH123

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

DEFAULT_SPEED = 50.0
DEFAULT_LAG_S = 0.3
DEFAULT_LIVING_LAG_S = 0.1
DEFAULT_RAM_MB = 65_536  # a fixed number, so that a plan does not depend on the host that simulates


def read_json(path: str, default: Any) -> Any:
    """The JSON in `path`, or `default` where there is no such file. Files are replaced whole, so no lock is needed."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def write_json(path: str, value: Any) -> None:
    """Replace `path` atomically (0600). The caller holds the machine's lock. Raises OSError; nothing is left then."""
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class Machine:
    """One simulated machine. `folder` holds machine.json, ledger.json, faults.json, changes.jsonl and bin/."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.config_path = os.path.join(folder, "machine.json")
        self.faults_path = os.path.join(folder, "faults.json")
        self.ledger_path = os.path.join(folder, "ledger.json")
        self.changes_path = os.path.join(folder, "changes.jsonl")

    def exists(self) -> bool:
        return os.path.exists(self.config_path)

    def config(self) -> dict[str, Any]:
        """Keys: `gpus`, `speed`, `lag_s`, `living_lag_s`, `ram_mb` (None: the real host's), `seed`."""
        config: dict[str, Any] = read_json(self.config_path, {})
        return config

    def configure(self, **changes: Any) -> None:
        with self.lock():
            write_json(self.config_path, {**self.config(), **changes})

    def gpus(self) -> list[dict[str, Any]]:
        gpus: list[dict[str, Any]] = self.config().get("gpus", [])
        return gpus

    def speed(self) -> float:
        """How many published seconds pass in a real one."""
        return float(self.config().get("speed", DEFAULT_SPEED))

    def lag_s(self) -> float:
        """How long, in real seconds, the memory of a dead process stays in use."""
        return float(self.config().get("lag_s", DEFAULT_LAG_S))

    def living_lag_s(self) -> float:
        """How long, in real seconds, memory that a living process gave back stays in use."""
        return float(self.config().get("living_lag_s", DEFAULT_LIVING_LAG_S))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """The kernel lock that every change of the machine's files holds. Not reentrant."""
        descriptor = os.open(os.path.join(self.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
