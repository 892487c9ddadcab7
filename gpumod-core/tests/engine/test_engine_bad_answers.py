"""A driver that answers what it must not, or exits: it is named with its distribution, and others' services go on."""

from __future__ import annotations

from typing import Any

import pytest

from gpumod.bootstrap import preset_tools
from gpumod.domain.errors import Failed
from gpumod.domain.plan import AlternativeKind, Variant
from gpumod.domain.states import State
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import SimulateParams
from gpumod.operations.plugin_results import PluginCheck
from gpumod.operations.watch_results import WatchParams
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import world_mode, world_service
from gpumod.testing.world_odd import Oddity, odd_offers

WHO = "the driver 'odd' of gpumod-core is broken: "
ODD = world_service("odd", 2000, 9000, driver="odd", naps=True)
BAD = {
    "capabilities answered dict, not Capabilities": Oddity(answers={"capabilities": {"sleep_levels": []}}),
    "capabilities: SystemExit: 3": Oddity(raises={"capabilities": SystemExit(3)}),
    "capabilities: ValueError: no number": Oddity(raises={"capabilities": ValueError("no number")}),
    "check: TypeError: a stranger's bug": Oddity(raises={"check": TypeError("a stranger's bug")}),
    "check: SystemExit: 3": Oddity(raises={"check": SystemExit(3)}),
    "launch answered dict, not Launch": Oddity(answers={"launch": {"argv": ["true"]}}),
    "launch: SystemExit: 3": Oddity(raises={"launch": SystemExit(3)}),
}
SILENT = {
    "a residue that is a text": Oddity(answers={"residue_mb": "much"}),
    "residue_mb exits": Oddity(raises={"residue_mb": SystemExit(3)}),
}
SMALLER = Variant(kind=AlternativeKind.KV_TYPE, title="odd smaller", unit_vars={"uses_mb": 1000}, saves_mb=1500)


@pytest.fixture
def bad_box(make_box: Any) -> Any:
    def make(oddity: Oddity) -> Any:
        box = make_box(24_000)
        box.offers = odd_offers(oddity)
        box.define(ODD, world_service("chat", 3000, 9002, naps=True), world_mode("up", "chat"))
        return box

    return make


@pytest.mark.parametrize("oddity", [pytest.param(bad, id=said) for said, bad in (BAD | SILENT).items()])
def test_a_stopped_service_of_a_bad_driver_stops_no_other(bad_box: Any, oddity: Oddity) -> None:
    box = bad_box(oddity)
    assert box.switch("up").exit_code == 0
    assert box.start("chat", want="asleep").exit_code == 0
    box.world.clock.run(Gpumod(box.machine(), bare_tools()).watch(WatchParams()))
    assert box.observe().reading("odd").state is State.STOPPED
    assert box.world.states() == {"chat": "asleep"}


@pytest.mark.parametrize(("said", "oddity"), BAD.items())
def test_its_own_start_is_refused_and_says_whose_fault_it_is(bad_box: Any, said: str, oddity: Oddity) -> None:
    box = bad_box(oddity)
    with pytest.raises(Failed) as caught:
        box.start("odd")
    info = caught.value.info
    assert (info.code, info.details["distribution"]) == ("plugin-broken", "gpumod-core")
    assert info.message.startswith(WHO + said)
    assert "gpumod-core" in info.hint
    assert box.world.states() == {}


@pytest.mark.parametrize(("said", "oddity"), BAD.items())
def test_doctor_goes_on_and_names_the_bad_driver(patient: Any, said: str, oddity: Oddity) -> None:
    patient.box.offers = odd_offers(oddity)
    patient.box.define(ODD)
    patient.box.switch("web")
    wrong = patient.wrong()
    assert list(wrong) == ["service odd"]
    assert WHO + said in wrong["service odd"]


@pytest.mark.parametrize(
    ("said", "bad"),
    [
        ("probe answered dict, not ProbeResult", Oddity(answers={"probe": {"state": "ready"}})),
        ("probe: SystemExit: 3", Oddity(raises={"probe": SystemExit(3)})),
    ],
)
def test_a_probe_that_answers_wrongly_or_exits_reads_unhealthy(bad_box: Any, said: str, bad: Oddity) -> None:
    good = Oddity()
    box = bad_box(good)
    assert (box.start("odd").exit_code, box.start("chat").exit_code) == (0, 0)
    good.raises, good.answers = bad.raises, bad.answers
    snapshot = box.observe()
    assert snapshot.reading("odd").state is State.UNHEALTHY
    assert snapshot.reading("odd").detail.startswith(WHO + said)
    assert snapshot.reading("chat").state is State.RUNNING


def test_a_service_that_runs_with_a_bad_driver_hinders_no_watch(bad_box: Any) -> None:
    oddity = Oddity()
    box = bad_box(oddity)
    box.define(world_mode("both", "chat", "odd"))
    box.settings["idle_timeout_s"] = 60
    assert box.switch("both").exit_code == 0
    oddity.answers["capabilities"] = {}
    for _ in range(2):
        box.world.clock.run(Gpumod(box.machine(), bare_tools()).watch(WatchParams()))
    assert box.world.states() == {"chat": "ready", "odd": "ready"}


@pytest.mark.parametrize(
    ("oddity", "is_offered"),
    [
        (Oddity(answers={"variants": [SMALLER]}), True),
        (Oddity(answers={"variants": ("smaller",)}), False),
        (Oddity(raises={"variants": SystemExit(3)}), False),
    ],
)
def test_variants_are_offered_where_something_does_not_fit_and_bad_ones_hide_no_other_way(
    bad_box: Any, oddity: Oddity, is_offered: bool
) -> None:
    box = bad_box(oddity)
    box.define(world_service("big", 21_500, 9003), world_mode("much", "odd", "big"))
    refused = box.ask("simulate", SimulateParams(mode="much"))
    kinds = {alternative.kind for alternative in refused.alternatives}
    assert (AlternativeKind.KV_TYPE in kinds) == is_offered
    assert kinds - {AlternativeKind.KV_TYPE}


def test_a_log_reader_that_breaks_hides_no_other_reason(bad_box: Any) -> None:
    box = bad_box(Oddity(raises={"fatal_line": ValueError("no such line")}))
    assert box.start("odd").exit_code == 0
    box.world.fault("odd", "die-after", 0.7)
    outcome = box.start("odd", restart=True)
    assert (outcome.exit_code, outcome.error.code) == (7, "died-while-starting")


def test_a_driver_that_tells_nothing_hinders_no_look_at_what_runs(patient: Any) -> None:
    """Of services on the CPU the doctor asks whether they put their model away themselves."""
    oddity = Oddity()
    patient.box.offers = odd_offers(oddity)
    patient.box.define(ODD)
    patient.box.switch("web")
    assert patient.box.start("odd").exit_code == 0
    for proc in patient.box.world.alive().values():
        proc.mb = {}
    oddity.raises["capabilities"] = ValueError("no number")
    wrong = patient.wrong()
    assert "holds 0 of 3000 MiB" in wrong["service web"]
    assert "service odd" in wrong


@pytest.mark.parametrize("name", ["odd", "nap"])
def test_a_check_that_breaks_is_told_where_an_example_is_looked_for(make_box: Any, name: str) -> None:
    box = make_box(24_000)
    box.offers = odd_offers(Oddity(raises={"check": TypeError("a stranger's bug")}))
    with pytest.raises(Failed) as caught:
        box.ask("plugins_check", PluginCheck(name=name), presets=preset_tools)
    assert (caught.value.code, caught.value.info.details["distribution"]) == ("plugin-broken", "gpumod-core")


def test_an_interrupt_in_a_driver_gets_through(bad_box: Any) -> None:
    oddity = Oddity()
    box = bad_box(oddity)
    machine = box.machine()
    for method in ("capabilities", "probe"):
        oddity.raises[method] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        machine.capabilities(ODD)
    asked = machine.driver(ODD).probe(ODD, 9000, machine.http)
    with pytest.raises(KeyboardInterrupt):
        asked.send(None)
