"""Simulations of everything that makes no sense, and alternatives that no longer hold."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("total", ["0", "-1", "1e4", "x", "", "9" * 30, "24564MB"])
def test_cards_that_cannot_be(home, total):
    assert home.ask("simulate", "--mode", "code", "--gpu-total", total, code=2).error["code"] in ("usage", "bad-input")


def test_tiny_and_huge_cards(home):
    tiny = home.ask("simulate", "--mode", "code", "--gpu-total", "1", code=3).json
    assert (tiny["verdict"], tiny["gpus"][0]["budget_mb"], tiny["alternatives"]) == ("does-not-fit", -511, [])
    assert home.ask("simulate", "--mode", "code", "--gpu-total", "10000000", code=0).json["verdict"] == "fits"
    assert home.ask("simulate", "--mode", "blank", "--gpu-total", "1", code=0).json["verdict"] == "nothing-to-do"
    assert "MiB," in home.say("simulate", "--mode", "code", "--gpu-total", "1", code=3).stdout


def test_doubles_and_strangers(home):
    once = home.ask("simulate", "--services", "chat,asr", code=0).json
    assert "names chat twice" in home.ask("simulate", "--services", "chat,asr,chat", code=2).error["why"]
    assert home.ask("simulate", "--services", "chat,asr", "--add", "asr", code=0).json["gpus"] == once["gpus"]
    assert home.ask("simulate", "--services", "", code=0).json["verdict"] == "nothing-to-do"
    for args in (("--mode", "code", "--services", "chat"), (), ("--visual",)):
        assert home.ask("simulate", *args, code=2).error["code"] == "usage"


@pytest.mark.parametrize("base", [("--mode", "code"), ("--services", "glm-code"), ()])
def test_what_is_left_out_must_be_there(home, base):
    stranger = home.ask("simulate", *base, "--remove", "tts", code=2).error
    assert (stranger["code"], "tts" in stranger["message"]) == ("not-a-member", True)
    nobody = home.ask("simulate", *base, "--remove", "glm-cod", code=4).error
    assert (nobody["code"], "'glm-cod'" in nobody["message"]) == ("unknown-service", True)
    assert home.ask("simulate", "--mode", "blank", "--add", "tts", "--remove", "tts", code=0).json["gpus"]


def test_what_is_taken_out_of_a_mode_must_be_in_it(home):
    for option in ("--remove", "--asleep", "--sleep-on-idle", "--awake"):
        stranger = home.ask("mode", "edit", "code", option, "tts", code=2).error
        assert (stranger["code"], "tts" in stranger["message"]) == ("not-a-member", True)
        nobody = home.ask("mode", "edit", "code", option, "glm-cod", code=4).error
        assert (nobody["code"], "'glm-cod'" in nobody["message"]) == ("unknown-service", True)
    assert home.ask("mode", "edit", "code", "--start-order", "glm-cod=1", code=4).error["code"] == "unknown-service"
    home.sql("DELETE FROM services WHERE id = 'glm-code'")
    home.ask("mode", "edit", "code", "--remove", "glm-code", code=0)
    assert home.modes()["code"] == ["embedding-code"]


@pytest.mark.parametrize(
    ("context", "code"),
    [
        ("asr=4096", "bad-context"),  # it declares no cost
        ("chat=4096", "bad-context"),  # it is not simulated
        ("glm-code=0", "bad-input"),
        ("glm-code=-1", "usage"),
        ("glm-code", "usage"),
        ("=5", "usage"),
        ("glm-code=", "usage"),
        ("glm-code=1.5", "usage"),
        ("glm-code=99999999999999999999", "bad-input"),
    ],
)
def test_contexts_that_cannot_be(home, context, code):
    args = ("simulate", "--mode", "code", "--add", "asr", "--context", context)
    assert home.ask(*args, code=2).error["code"] == code


def test_a_card_that_strangers_fill_can_still_be_emptied(home):
    home.ask("sim", "foreign", "24300", code=0)
    try:
        foreign = home.ask("simulate", "--mode", "blank", code=0).json["gpus"][0]
        assert foreign["budget_mb"] < 0
        assert foreign["exceeds_by_mb"] == 0
        home.ask("switch", "blank", code=0)
        assert home.ask("switch", "code", code=3).json["error"]["code"] == "does-not-fit"
    finally:
        home.ask("sim", "foreign", "--stop", code=0)


def test_two_cards(bare):
    bare.init("RTX 3090:24576,RTX 3060:12288")
    gpus = bare.ask("simulate", "--mode", "code", "--add", "reranker", code=0).json["gpus"]
    assert [gpu["index"] for gpu in gpus] == [0, 1]
    bare.ask("service", "edit", "chat", "--gpus", "7", code=0)
    done = bare.ask("simulate", "--services", "chat")
    assert done.code != 0, done
    for cards in ("X", "X:", "X:y", ":5", "", "X:0", "X:-5", "X:1,,Y", "a\nb:1000", "X:99999999999"):
        assert bare.ask("init", "--yes", "--sim", cards, code=2)


def test_alternatives_that_do_not_hold(home):
    misfit = home.ask("simulate", "--mode", "code", "--add", "reranker", code=3).json
    extra = misfit["alternatives"][0]
    assert home.ask("switch", "rag", "--with", extra["id"], code=2).error["code"] == "other-alternative"
    assert home.ask("switch", "code", "--with", "nope", code=4).error["code"] == "unknown-alternative"
    home.ask("service", "edit", "embedding-code", "--vram-mb", "22000", code=0)
    assert home.ask("switch", "code", "--with", extra["id"], code=8).error["code"] == "stale-alternative"
    assert home.ask("status").json["mode"] is None


def test_an_alternative_of_a_service_that_is_gone(home):
    misfit = home.ask("simulate", "--mode", "code", "--add", "reranker", code=3).json
    home.ask("service", "remove", "reranker", "--cascade", code=0)
    done = home.ask("switch", "code", "--with", misfit["alternatives"][0]["id"])
    assert done.code in (4, 8), done


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_words_at_all_are_answered_in_one_document(home, words):
    done = home.ask("simulate", *words)
    assert done.code in (0, 2, 3, 4)
