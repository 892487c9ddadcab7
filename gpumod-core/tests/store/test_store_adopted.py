"""An adopted service always has a handle, made of its definition."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gpumod.adapters.store import open_store
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import UnknownName
from gpumod.domain.run import Event, Handle
from gpumod.domain.service import Service
from gpumod.ports import Store

ID = "a1" * 32
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


@pytest.mark.parametrize(
    ("fields", "keeper", "told"),
    [
        ({"unit": "a.service", "manager": "user"}, "adopted-user", "user unit a.service"),
        ({"container": ID, "name": "writer"}, "adopted-container", "container writer (a1a1a1a1a1a1)"),
        ({"container": ID, "name": "w", "engine": "/run/x.sock"}, "adopted-container", "container w (a1a1a1a1a1a1)"),
        ({"pid": 7, "identity": "boot 9"}, "adopted-process", "process 7"),
    ],
)
def test_each_kind_has_its_keeper(store: Store, fields: dict[str, Any], keeper: str, told: str) -> None:
    store.put_service(Service(id="theirs", driver="vllm", adopted=Adopted(**fields)), event=EVENT)
    handle = store.handles()["theirs"]
    assert (handle.supervisor, str(handle.launched.adopted)) == (keeper, told)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"unit": "a.service"},
        {"container": ID},
        {"container": ID[:12], "name": "writer"},
        {"container": ID.upper(), "name": "writer"},
        {"container": ID, "name": "a;b"},
        {"container": ID, "name": "writer", "pid": 7},
        {"container": ID, "name": "writer", "pid": 7, "identity": "boot 9"},
        {"container": ID, "manager": "user"},
        {"container": ID, "name": "writer", "engine": "tcp://elsewhere"},
        {"container": ID, "name": "writer", "engine": "/run/x\n.sock"},
        {"unit": "a.service", "manager": "user", "engine": "/run/docker.sock"},
    ],
)
def test_it_is_one_thing_and_the_whole_of_it(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Adopted(**fields)


def test_a_container_is_the_same_whatever_it_is_called() -> None:
    first, second = Adopted(container=ID, name="writer"), Adopted(container=ID, name="writer-2", engine="/x.sock")
    assert first.thing == second.thing
    assert Adopted(container="b2" * 32, name="writer").thing != first.thing


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
