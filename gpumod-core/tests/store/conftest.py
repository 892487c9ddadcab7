"""A database to open."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumod.adapters.store import open_store
from gpumod.domain.run import Event
from gpumod.domain.service import Service


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with one service in it."""
    path = tmp_path / "home" / "gpumod.db"
    with open_store(path) as store:
        store.put_service(
            Service(id="chat", driver="llamacpp", port=7800), event=Event(at=1.0, kind="test", subject="it")
        )
    return path
