"""An adopted service always has a handle, made of its definition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumod.adapters.store import open_store
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import UnknownName
from gpumod.domain.run import Event, Handle
from gpumod.domain.service import Service
from gpumod.ports import Store

EVENT = Event(at=1.0, kind="x", subject="x")
UNIT = Service(id="theirs", driver="vllm", port=8000, adopted=Adopted(unit="theirs.service", manager="system"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "home" / "gpumod.db") as store:
        yield store


def test_a_handle_is_made_of_the_definition(store: Store) -> None:
    store.put_service(Service(id="own", driver="vllm"), event=EVENT)
    assert store.handles() == {}
    store.put_service(UNIT, event=EVENT)
    handle = store.handles()["theirs"]
    assert (handle.supervisor, handle.launched, handle.token) == ("adopted-system", UNIT, {})
    changed = UNIT.model_copy(update={"port": 8001})
    store.put_service(changed, event=EVENT)
    assert store.handles()["theirs"].launched == changed


def test_what_was_noted_of_it_is_kept_and_forgotten(store: Store) -> None:
    store.put_service(UNIT, event=EVENT)
    noted = Handle(
        service="theirs",
        supervisor="adopted-system",
        nonce="n",
        launched=UNIT,
        gpus=(0,),
        started_at=1,
        device_mb={0: 7},
    )
    store.put_handle(noted, event=EVENT)
    changed = UNIT.model_copy(update={"port": 8001})
    store.put_service(changed, event=EVENT)
    handle = store.handles()["theirs"]
    assert (handle.gpus, handle.device_mb, handle.launched) == ((0,), {0: 7}, changed)
    store.delete_handle("theirs", event=EVENT)
    assert store.handles()["theirs"].device_mb == {}
    store.delete_handle("theirs", event=EVENT)  # there is no row, and there need not be
    store.delete_service("theirs", event=EVENT)
    assert store.handles() == {}
    with pytest.raises(UnknownName):
        store.delete_handle("theirs", event=EVENT)
