"""Switches: every service really answers, sleeps and wakes, and the ledger keeps to the plan."""

from __future__ import annotations

import configparser
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.machine.conftest import Machine, MakeMachine

pytestmark = pytest.mark.sim


def test_every_mode_serves_within_its_plan_and_blank_leaves_nothing(machine: Machine) -> None:
    watch = machine.watch()
    machine.change("switch", "code", watch=watch)
    machine.whole("code")
    assert machine.states() == {"embedding-code": "running", "glm-code": "running"}
    for service in ("embedding-code", "glm-code"):
        machine.ask(service)

    machine.change("switch", "rag", watch=watch)
    machine.whole("rag")
    turns = ("hyde", "reranker", "chat")
    awake = {"embedding-code": "running", "embedding": "running", "llama-router": "running"}
    assert machine.states() == {**awake, **dict.fromkeys(turns, "sleeping")}
    for service in ("embedding-code", "embedding"):
        machine.ask(service)
    for service in turns:
        machine.change("service", "wake", service, watch=watch)
        machine.ask(service)
        machine.change("service", "sleep", service, watch=watch)
        assert machine.states()[service] == "sleeping"
    machine.whole("rag")

    machine.change("switch", "speak", watch=watch)
    machine.whole("speak")
    for service in ("embedding", "asr", "tts", "chat"):
        assert machine.states()[service] == "running"
        machine.ask(service)

    machine.change("switch", "blank", watch=watch)
    machine.whole("blank")
    machine.nothing_left()

    machine.change("switch", "-", watch=watch)
    machine.whole("speak")
    machine.ask("chat")
    machine.change("switch", "blank", watch=watch)
    machine.nothing_left()
    watch.check()


def members(machine: Machine) -> set[str]:
    """The members in the router's own file."""
    parser = configparser.ConfigParser()
    parser.read_string("[top]\n" + (machine.home / "services" / "llama-router" / "models.ini").read_text())
    return set(parser.sections()) - {"top", "*"}


@pytest.mark.slow
def test_the_router_knows_exactly_the_members_that_are_awake_or_asleep(machine: Machine) -> None:
    for name in ("one", "two"):
        fields = (
            "--driver",
            "llamacpp",
            "--host-service",
            "llama-router",
            "--vram-mb",
            "2000",
            "--sleep-mode",
            "router",
        )
        machine.ok("service", "add", "--id", name, *fields, "--model-path", f"/models/{name}.gguf")
    machine.ok("mode", "create", "duo", "--services", "one,chat", "--asleep", "chat")
    machine.change("switch", "duo")
    assert members(machine) == {"one", "chat"}
    assert machine.states() == {"llama-router": "running", "one": "running", "chat": "sleeping"}
    machine.change("service", "start", "two")
    assert members(machine) == {"one", "two", "chat"}
    machine.change("service", "stop", "one")
    assert members(machine) == {"two", "chat"}
    machine.change("service", "wake", "chat")
    assert members(machine) == {"two", "chat"}
    machine.change("switch", "rag")
    assert members(machine) == {"chat"}
    machine.change("switch", "code")
    assert "llama-router" not in machine.states()
    machine.change("switch", "duo")
    assert members(machine) == {"one", "chat"}


@pytest.mark.slow
def test_a_second_card_is_used_where_the_first_is_full_and_a_service_may_span_both(make_machine: MakeMachine) -> None:
    machine = make_machine("RTX 4090:24564,RTX 3090:24564")
    port = str(machine.unused[0])
    wide = ("--id", "wide", "--driver", "fastapi", "--port", port, "--vram-mb", "30000", "--gpus", "0,1")
    machine.ok("service", "add", *wide, "--set", "command=uvicorn app:app --host {host} --port {port}")
    machine.ok("mode", "create", "both", "--services", "glm-code,reranker,embedding")
    machine.ok("mode", "create", "broad", "--services", "wide,embedding")
    watch = machine.watch()
    machine.change("switch", "both", watch=watch)
    machine.whole("both")
    cards = {row["service"]: row["gpu"] for row in machine.allocations()}
    assert set(cards.values()) == {0, 1}
    assert cards["glm-code"] == 0
    assert cards["reranker"] == 1
    for service in cards:
        machine.ask(service)
    machine.change("switch", "broad", watch=watch)
    machine.whole("broad")
    assert sorted((row["gpu"], row["mb"]) for row in machine.allocations() if row["service"] == "wide") == [
        (0, 15000),
        (1, 15000),
    ]
    machine.change("switch", "blank", watch=watch)
    machine.nothing_left()
    watch.check()
