"""Two gpumods that define at once on one database: no edit is lost, nothing is there twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from gpumod.adapters.settings import check_setting
from gpumod.bootstrap import preset_tools
from gpumod.domain.errors import GpumodError
from gpumod.domain.mode import ModeMember
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ModeDelete, ModeWrite, PresetLoad, SecretWrite, ServiceRemove, ServiceWrite
from gpumod.testing.tools import bare_tools
from gpumod.testing.world import World
from gpumod.testing.world_drivers import world_mode, world_service

WEB = world_service("web", 3000, 9001)
CODE = world_service("code", 4000, 9002)
HEAD_START_S = 0.3
"""So long the second has to come before the write of the first; it needs some hundredths of that."""
Do = Callable[[Any], Any]


@pytest.fixture
def box(make_box: Any) -> Any:
    return make_box(16000, define=[WEB, CODE, world_mode("on", "web")])


@pytest.fixture
def other(box: Any) -> Iterator[Any]:
    """Another gpumod on the same database."""
    second = type(box)(box.folder, World(16000))
    yield second
    second.close()


def ask(operation: str, params: Any) -> Do:
    """An operation; what it refuses is its answer."""

    def do(box: Any) -> Any:
        tools = bare_tools(presets=preset_tools, check_setting=check_setting)
        try:
            return box.world.clock.run(getattr(Gpumod(box.machine(), tools), operation)(params))
        except GpumodError as error:
            return error.code

    return do


def at_once(box: Any, other: Any, first: Do, write: str, second: Do) -> tuple[Any, Any]:
    """Let `second` begin when `first` has read and checked, and is about to write."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(second(other)))

    def begin() -> None:
        thread.start()
        thread.join(HEAD_START_S)

    box.when(f"write {write} before", begin)
    answer = first(box)
    thread.join(30)
    return answer, answers[0]


def edit(service: str, **fields: Any) -> Do:
    return ask("service_edit", ServiceWrite(id=service, fields=fields))


def add(service: str, port: int) -> Do:
    return ask("service_add", ServiceWrite(id=service, fields={"driver": "world", "port": port, "vram_mb": 1}))


def mode(operation: str, **params: Any) -> Do:
    return ask(operation, ModeWrite(**params))


def test_two_edits_of_one_service(box: Any, other: Any) -> None:
    at_once(box, other, edit("web", startup_timeout=7), "put_service", edit("web", name="Web"))
    web = box.store.services()["web"]
    assert (web.startup_timeout, web.name) == (7, "Web")
    assert box.store.user_edited("web") == {"startup_timeout", "name"}


def test_one_service_is_added_once(box: Any, other: Any) -> None:
    _, second = at_once(box, other, add("new", 9100), "put_service", add("new", 9101))
    assert second == "service-exists"
    assert box.store.services()["new"].port == 9100


def test_one_port_is_given_once(box: Any, other: Any) -> None:
    _, second = at_once(box, other, add("a", 9100), "put_service", add("b", 9100))
    assert second == "port-conflict"
    assert set(box.store.services()) == {"web", "code", "a"}


def test_two_edits_of_one_mode(box: Any, other: Any) -> None:
    box.define(world_service("more", 1, 9003))
    one, two = (mode("mode_edit", id="on", add=(s,)) for s in ("code", "more"))
    at_once(box, other, one, "put_mode", two)
    assert box.store.modes()["on"].services == ("web", "code", "more")


def test_one_mode_is_created_once(box: Any, other: Any) -> None:
    one, two = (mode("mode_create", id="new", members=(ModeMember(service=s),)) for s in ("web", "code"))
    _, second = at_once(box, other, one, "put_mode", two)
    assert second == "mode-exists"
    assert box.store.modes()["new"].services == ("web",)


def test_a_mode_names_no_service_that_is_just_removed(box: Any, other: Any) -> None:
    remove = ask("service_remove", ServiceRemove(service="code"))
    first, second = at_once(box, other, mode("mode_edit", id="on", add=("code",)), "put_mode", remove)
    assert (first.services, second) == (("web", "code"), "in-modes")
    assert "code" in box.store.services()


def test_a_service_that_is_just_removed_is_needed_by_nobody(box: Any, other: Any) -> None:
    remove = ask("service_remove", ServiceRemove(service="code"))
    _, second = at_once(box, other, remove, "delete_service", edit("web", depends_on=("code",)))
    assert second == "unknown-service"
    assert box.store.services()["web"].depends_on == ()


def test_a_removal_out_of_a_mode_loses_no_edit_of_it(box: Any, other: Any) -> None:
    remove = ask("service_remove", ServiceRemove(service="web", cascade=True))
    at_once(box, other, remove, "put_mode", mode("mode_edit", id="on", name="On", add=("code",)))
    on = box.store.modes()["on"]
    assert (on.name, on.services) == ("On", ("code",))


def test_a_service_that_starts_again_while_it_is_removed_stays(box: Any) -> None:
    box.switch("on")
    handle, event = box.store.handles()["web"], box.store.events(1)[0]
    box.when("write finish_run before", lambda: box.store.put_handle(handle, event=event))  # somebody starts it anew
    assert ask("service_remove", ServiceRemove(service="web", stop=True, cascade=True))(box) == "still-running"
    assert "web" in box.store.services()


def test_a_mode_that_is_just_deleted_is_not_edited(box: Any, other: Any) -> None:
    delete = ask("mode_delete", ModeDelete(mode="on"))
    _, second = at_once(box, other, delete, "delete_mode", mode("mode_edit", id="on", name="On"))
    assert second == "unknown-mode"
    assert box.store.modes() == {}


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    """A folder with the preset of web, that has another port than what is defined."""
    folder = tmp_path / "presets"
    folder.mkdir()
    preset = {"id": "web", "driver": "world", "port": 9050, "vram_mb": 3000, "unit_vars": dict(WEB.unit_vars)}
    (folder / "web.yaml").write_text(yaml.safe_dump(preset))
    return folder


def test_loading_presets_loses_no_edit(box: Any, other: Any, presets: Path) -> None:
    load = ask("preset_load", PresetLoad(folder=str(presets)))
    first, _ = at_once(box, other, load, "put_service", edit("web", name="Mine"))
    assert first.updated == ("web",), first
    web = box.store.services()["web"]
    assert (web.port, web.name) == (9050, "Mine")
    assert box.store.user_edited("web") == {"name"}


def test_secrets_are_changed_by_one_at_a_time(box: Any, other: Any) -> None:
    other.world.secrets = box.world.secrets
    seen: list[set[str]] = []
    box.every = lambda label: seen.append({*box.world.secrets["web"]}) if label == "write put_service before" else None

    def put(name: str) -> Do:
        return ask("secret_set", SecretWrite(service="web", name=name, value=SecretStr("s3cret")))

    at_once(box, other, put("FIRST"), "put_service", put("SECOND"))
    assert seen == [{"FIRST"}]  # the second waits with the file, too
    assert set(box.world.secrets["web"]) == {"FIRST", "SECOND"}
