"""What somebody else set up, and gpumod adopted: no edit, no way back and no document stops it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import yaml

from gpumod.adapters.settings import check_setting
from gpumod.bootstrap import preset_tools
from gpumod.domain.adopted import Adopted
from gpumod.domain.errors import Failed, HalfWay, UsageError
from gpumod.domain.plan import AlternativeKind
from gpumod.operations.adoption_params import ReleaseParams
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ApplyParams, NoParams, ServiceChange, SimulateParams
from gpumod.plugins.offers import SupervisorOffer
from gpumod.testing.tools import bare_tools
from gpumod.testing.world_drivers import quiet, world_mode, world_service
from gpumod.testing.world_parts import WorldSupervisor

TOLD = Adopted(unit="theirs.service", manager="system")
LONG = {"context_size": 32768, "kv_cache_per_1k": 60.0}
THEIRS = world_service("theirs", 4000, 9001, adopted=TOLD, **LONG)
OWN = world_service("own", 3000, 9002)
EDITED = THEIRS.model_copy(update={"name": "mine", "vram_mb": 4100})


class TheirUnits(WorldSupervisor):
    """Keeps theirs.service alone, which somebody else starts and stops as well; forgets what was written for others."""

    name = TOLD.keeper

    def _find(self, handle: Any) -> Any:
        return self.world.alive().get("theirs") if handle.service == "theirs" else None

    async def forget(self, service: str) -> bool:
        return self.world.files.pop(f"{service}.service", None) is not None


@pytest.fixture
def box(make_box: Any) -> Any:
    made = make_box(8000, define=[THEIRS, OWN, world_mode("own", "own"), world_mode("both", "theirs", "own")])
    made.offers = (
        SupervisorOffer(
            name=TOLD.keeper, summary="", factory=lambda *_: TheirUnits(made.world, made.home, quiet), adopts=True
        ),
    )
    assert made.start("theirs").exit_code == 0
    return made


def pids(box: Any) -> dict[str, int]:
    return {service: proc.pid for service, proc in box.world.alive().items()}


def document(box: Any, **fields: Any) -> Any:
    """What `export` writes, with fields of the adopted service changed; without it where none are given."""
    data = yaml.safe_load(box.ask("export", NoParams(), presets=preset_tools).yaml)
    others = [entry for entry in data["services"] if entry["id"] != "theirs"]
    (entry,) = (entry for entry in data["services"] if entry["id"] == "theirs")
    data["services"] = [*others, entry | fields] if fields else others
    return data


def unadopted(data: Any) -> Any:
    """A document that does not say any more what was adopted."""
    return data | {"services": [{k: v for k, v in entry.items() if k != "adopted"} for entry in data["services"]]}


def apply(box: Any, data: Any, **more: Any) -> Any:
    asked = ApplyParams(text=yaml.safe_dump(data), source="box.yaml", **more)
    return box.ask("apply", asked, presets=preset_tools, check_setting=check_setting)


def test_a_way_back_leaves_what_was_edited_meanwhile(box: Any) -> None:
    before = pids(box)
    box.world.fault("own", "die-after", 1.0)
    box.when("start own after", lambda: box.define(EDITED))
    assert box.start("own").exit_code == 6
    assert pids(box) == before


def test_a_document_with_other_numbers_restarts_it_not(box: Any) -> None:
    before = pids(box)
    assert apply(box, document(box, vram_mb=4100), now=True).applied
    assert (box.store.services()["theirs"].vram_mb, pids(box)) == (4100, before)


@pytest.mark.parametrize("now", [False, True])
def test_a_document_without_it_does_not_remove_it(box: Any, now: bool) -> None:
    data = document(box)
    data["modes"] = [mode for mode in data["modes"] if mode["id"] != "both"]
    with pytest.raises(UsageError) as caught:
        apply(box, data, prune=True, now=now)
    assert "would be removed, and was adopted: it is somebody else's" in str(caught.value.info)
    assert "gpumod service release theirs" in str(caught.value.info)
    assert (box.world.states(), "theirs" in box.store.services()) == ({"theirs": "ready"}, True)


ELSEWHERE = {"unit": "another.service", "manager": "system"}


@pytest.mark.parametrize("now", [False, True])
@pytest.mark.parametrize(
    ("adopted", "becomes"),
    [(None, "be gpumod's own"), (ELSEWHERE, "stand for the system unit another.service")],
    ids=["own", "elsewhere"],
)
def test_a_document_makes_nothing_else_of_it(box: Any, adopted: Any, becomes: str, now: bool) -> None:
    before = pids(box)
    data = document(box, adopted=adopted) if adopted else unadopted(document(box, name="mine"))
    with pytest.raises(UsageError) as caught:
        apply(box, data, now=now)
    told = f"service 'theirs' would {becomes}, and was adopted from the system unit theirs.service"
    assert (caught.value.code, caught.value.info.why) == ("bad-box", told)
    assert caught.value.info.hint == (
        'gpumod service release theirs, or write in the document adopted: {"unit":"theirs.service","manager":"system"}'
    )
    assert (pids(box), box.store.services()["theirs"].adopted) == (before, TOLD)


def test_what_the_hint_says_is_taken(box: Any) -> None:
    told = yaml.safe_load(TOLD.model_dump_json(exclude_defaults=True))
    assert not apply(box, document(box, adopted=told)).changes


@pytest.mark.parametrize("prune", [False, True], ids=["defined by it", "removed by it"])
def test_what_is_adopted_while_a_document_is_brought_about_is_left_alone(box: Any, prune: bool) -> None:
    """To the document it is a service of gpumod's own; meanwhile its name is given to what somebody else set up."""
    before = pids(box)
    data = unadopted(document(box, vram_mb=3900))
    box.ask("service_release", ReleaseParams(service="theirs", cascade=True))
    if prune:
        box.define(THEIRS.model_copy(update={"adopted": None}))
        for key in ("services", "modes"):
            data[key] = [one for one in data[key] if one["id"] not in ("theirs", "both")]
    box.start("own")
    box.world.fault("own", "hang")  # the look before the plan takes long

    async def both() -> Any:
        asked = ApplyParams(text=yaml.safe_dump(data), source="box.yaml", now=True, prune=prune)
        tools = bare_tools(presets=preset_tools, check_setting=check_setting)
        bringing = asyncio.create_task(Gpumod(box.machine(), tools).apply(asked))
        await box.world.clock.sleep(1)
        box.define(THEIRS)
        return await bringing

    with pytest.raises(UsageError, match="is not right"):
        box.world.clock.run(both())
    assert (pids(box)["theirs"], box.store.services()["theirs"]) == (before["theirs"], THEIRS)


def starts_and_calls_adopted(box: Any) -> None:
    """`own` is started, and then a document calls it adopted."""
    box.start("own")
    data = document(box, name="as it was")
    for entry in data["services"]:
        if entry["id"] == "own":
            entry["adopted"] = {"unit": "theirs-too.service", "manager": "system"}
    apply(box, data)


def test_a_document_that_calls_a_running_one_adopted_loses_no_process(box: Any) -> None:
    starts_and_calls_adopted(box)
    assert box.states() == {"theirs": "running", "own": "running"}
    with pytest.raises(Failed, match="was not stopped yet"):
        box.ask("service_release", ReleaseParams(service="own", cascade=True))
    box.ask("service_stop", ServiceChange(service="own"))
    assert box.world.states() == {"theirs": "ready"}


def test_what_gpumod_started_and_is_dead_holds_up_no_release(box: Any) -> None:
    starts_and_calls_adopted(box)
    box.crash("own")
    box.world.files["own.service"] = "what started it"
    assert box.states() == {"theirs": "running", "own": "failed"}
    box.ask("service_release", ReleaseParams(service="own", cascade=True))
    assert ("own" in box.store.services(), box.states()) == (False, {"theirs": "running"})
    assert "own.service" not in box.world.files


def test_no_alternative_changes_its_options(box: Any) -> None:
    found = box.ask("simulate", SimulateParams(mode="both", gpu_total_mb=6000))
    assert found.verdict == "does-not-fit"
    assert AlternativeKind.CONTEXT not in {one.kind for one in found.alternatives}


def test_it_is_not_forgotten_while_a_run_that_uses_it_is_open(box: Any) -> None:
    box.world.fault("own", "die-after", 1.0)
    assert box.start("own", rollback=False).exit_code == 7
    assert "theirs" in box.store.open_run().definitions
    with pytest.raises(HalfWay):
        box.ask("service_release", ReleaseParams(service="theirs", cascade=True))
    assert "theirs" in box.store.services()
