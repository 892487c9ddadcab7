"""Switches, failures and deaths on a machine with a real llama-server: nothing of it is simulated but the card."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.llamacpp.conftest import EVERY_KEEPER, LARGE_MB, TINY_MB, Asking

if TYPE_CHECKING:
    from tests.llamacpp.conftest import RealMachine

pytestmark = [pytest.mark.llamacpp, pytest.mark.timeout(240)]

UNTIL = Callable[..., Any]

every_keeper = pytest.mark.parametrize("keeper", EVERY_KEEPER, indirect=True)
"""Else the process supervisor and the system manager are enough."""


def two_modes(real: RealMachine) -> None:
    """`first` and `second` share the router and `tiny`; each has a large model, and both do not fit."""
    real.add_member("tiny")
    real.add_member("other")
    real.add_large("red")
    real.add_large("blue")
    real.ok("mode", "create", "first", "--services", "box,tiny,red,other", "--asleep", "other")
    real.ok("mode", "create", "second", "--services", "box,tiny,blue")


@every_keeper
def test_a_switch_loads_and_unloads_and_leaves_the_others_alone(real: RealMachine) -> None:
    two_modes(real)
    real.change("switch", "first")
    assert real.states() == {"box": "running", "tiny": "running", "red": "running", "other": "sleeping"}
    assert {name: entry["value"] for name, entry in real.listed().items()} == {
        "tiny": "loaded", "red": "loaded", "other": "unloaded",
    }  # fmt: skip
    router, tiny, held = real.pid("box"), real.pid("tiny"), real.held()
    assert set(held) == {"tiny", "red"}
    assert held["tiny"] <= TINY_MB
    assert LARGE_MB * 0.5 < held["red"] <= LARGE_MB
    assert real.complete("red")["usage"]["completion_tokens"] == 4

    real.change("switch", "second")
    assert real.states() == {"box": "running", "tiny": "running", "blue": "running"}
    assert set(real.listed()) == {"tiny", "blue"}
    assert (real.pid("box"), real.pid("tiny")) == (router, tiny)
    assert set(real.held()) == {"tiny", "blue"}
    assert real.complete("tiny")["usage"]["completion_tokens"] == 4

    real.change("service", "sleep", "blue")
    assert set(real.held()) == {"tiny"}
    real.change("service", "wake", "blue")
    assert real.quick("mode", "verify", "second").code == 0
    real.change("switch", "blank")
    real.nothing_left()


def test_a_request_in_flight_gets_its_whole_answer_before_an_unload(real: RealMachine, until: UNTIL) -> None:
    real.add_member("tiny")
    real.ok("mode", "create", "talk", "--services", "box,tiny")
    for unload in (("service", "sleep", "tiny"), ("service", "stop", "tiny"), ("switch", "blank")):
        real.change("switch", "talk")
        asking = Asking(lambda: real.complete("tiny", 1900))
        until(lambda: real.busy("tiny"), "the request to be under way")
        real.change(*unload)
        answer = asking.done()
        assert isinstance(answer, dict), answer
        assert answer["usage"]["completion_tokens"] == 1900
        assert real.states().get("tiny") == ("sleeping" if "sleep" in unload else None)
    real.nothing_left()


def test_a_model_that_cannot_be_loaded_is_named_and_leaves_no_trace(real: RealMachine) -> None:
    real.add_member("tiny")
    real.ok("mode", "create", "talk", "--services", "box,tiny")
    real.change("switch", "talk")
    router, tiny = real.pid("box"), real.pid("tiny")
    for kind in ("magic", "truncated", "empty", "architecture", "missing"):
        name = f"bad-{kind}"
        real.add_member(name, f"corrupt-{kind}")
        failed = real.change("service", "start", name, code=6)
        assert failed.error["code"] == "bad-model", failed
        assert name in failed.error["message"]
        assert real.states() == {"box": "running", "tiny": "running"}
        assert set(real.listed()) == {"tiny"}
    real.ok("mode", "create", "worse", "--services", "box,tiny,bad-magic")
    assert real.change("switch", "worse", code=6).error["code"] == "bad-model"
    assert (real.pid("box"), real.pid("tiny")) == (router, tiny)
    assert real.complete("tiny")["usage"]["completion_tokens"] == 4
    real.whole("talk")


def test_what_the_program_does_not_take_is_refused_before_the_router_reads_it(real: RealMachine) -> None:
    real.add_member("tiny")
    real.change("service", "start", "tiny")
    tiny = real.pid("tiny")
    for extra, words, flag in (
        (("--no-such-option",), (), "--no-such-option"),
        (("--keep", "many"), (), "--keep"),
        ((), ("--set", "cache_type_k=q9_9"), "--cache-type-k"),
    ):
        real.add_member("odd", "tiny", *words, extra=extra)
        refused = real.change("service", "start", "odd", code=2)
        assert refused.error["code"] == "bad-service", refused
        assert f"does not take {flag}" in refused.error["why"]
        assert "llama-server (version " in refused.error["why"]
        real.ok("service", "remove", "odd")
    assert real.pid("tiny") == tiny
    assert set(real.listed()) == {"tiny"}


def test_a_child_that_dies_is_seen_and_comes_back(real: RealMachine, until: UNTIL) -> None:
    real.add_member("tiny")
    real.add_member("other")
    real.ok("mode", "create", "talk", "--services", "box,tiny,other")
    real.change("switch", "talk")
    router, other = real.pid("box"), real.pid("other")

    os.kill(real.pid("tiny"), signal.SIGKILL)
    until(lambda: real.states()["tiny"] == "failed", "its death to be seen")
    assert set(real.held()) == {"other"}
    real.change("switch", "talk")
    real.whole("talk")

    real.complete("tiny")  # one is loaded a little before it heeds signals
    half_dead = real.pid("tiny")
    os.kill(half_dead, signal.SIGTERM)  # its HTTP ends, and its process stays
    until(lambda: real.states()["tiny"] == "unhealthy", "it to be seen")
    assert real.listed()["tiny"]["value"] == "loaded"
    assert "tiny" in real.held()
    real.change("switch", "talk")
    assert real.pid("tiny") != half_dead
    assert not real_process(half_dead)
    real.whole("talk")
    assert (real.pid("box"), real.pid("other")) == (router, other)


@every_keeper
def test_a_router_that_is_killed_takes_its_members_with_it_and_comes_back(real: RealMachine, until: UNTIL) -> None:
    real.add_member("tiny")
    real.add_member("other")
    real.ok("mode", "create", "talk", "--services", "box,tiny,other", "--asleep", "other")
    real.change("switch", "talk")
    os.kill(real.pid("box"), signal.SIGKILL)
    until(lambda: real.states() == {"box": "failed", "tiny": "failed", "other": "failed"}, "its death to be seen")
    until(lambda: not real.held(), "its child to end")
    real.change("switch", "talk")
    assert real.states() == {"box": "running", "tiny": "running", "other": "sleeping"}
    assert real.complete("tiny")["usage"]["completion_tokens"] == 4

    os.kill(real.pid("box"), signal.SIGKILL)
    until(lambda: real.states()["box"] == "failed", "its second death to be seen")
    real.change("switch", "blank")
    real.nothing_left()


def test_a_model_of_its_own_server(real: RealMachine, until: UNTIL) -> None:
    port, bad_port = real.unused.pop(), real.unused.pop()
    lasting = ("--context-size", "1024", "--vram-mb", str(TINY_MB), "--startup-timeout", "60")
    options = ("parallel=2", "flash_attn=on", "cache_type_v=q8_0", "ubatch_size=128")
    tiny, bad = (str(real.models / f"{name}.gguf") for name in ("tiny", "corrupt-magic"))
    said = [word for option in (*options, f"model_draft={tiny}") for word in ("--set", option)]
    real.add("alone", "--port", str(port), "--model-path", tiny, *lasting, *said)
    real.add("bad", "--port", str(bad_port), "--model-path", bad, *lasting)
    real.ports |= {"alone": port, "bad": bad_port}
    real.change("service", "start", "alone")
    assert real.complete("alone", port=port)["usage"]["completion_tokens"] == 4
    assert set(real.held()) == {"alone"}
    failed = real.change("service", "start", "bad", code=6)
    assert failed.error["code"] == "bad-model", failed
    assert real.states() == {"alone": "running"}
    os.kill(real.pid("alone"), signal.SIGKILL)
    until(lambda: real.states() == {"alone": "failed"}, "its death to be seen")
    real.change("switch", "blank")
    real.nothing_left()


def real_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
