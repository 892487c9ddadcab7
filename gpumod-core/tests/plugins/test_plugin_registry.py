"""Registries: names, hints, factories, and what `Plugins` makes of several answers."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.errors import ErrorInfo, Failed, MachineLacks, UnknownName, UsageError
from gpumod.domain.footprint import Estimate
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins import offers
from gpumod.plugins.checks import Refused, check_offer
from gpumod.plugins.registry import (
    Offered,
    PluginRecord,
    Plugins,
    Registry,
    SleepStrategies,
    install_hints,
    merge_info,
)
from gpumod.ports import ModelInfo

SERVICE = Service(id="chat", driver="acme", model_id="a/b", vram_mb=7000)


def offered(kind: str, *given: offers.Offer) -> dict[str, Offered[Any]]:
    return {offer.name: Offered(kind, offer, "acme-dist") for offer in given}


def driver_offer(name: str, factory: Any = object) -> offers.DriverOffer:
    return offers.DriverOffer(name=name, summary="", factory=factory)


def plugins(**tables: dict[str, Offered[Any]]) -> Plugins:
    def registry(kind: str, name: str) -> Registry[Any]:
        return Registry(kind, tables.get(name, {}))

    return Plugins(
        drivers=registry("driver", "drivers"),
        sleep_strategies=SleepStrategies(registry("sleep level", "sleep_strategies")),
        estimators=registry("VRAM estimator", "estimators"),
        info_sources=registry("model info source", "info_sources"),
        supervisors=registry("supervisor", "supervisors"),
        gpu_probes=registry("GPU probe", "gpu_probes"),
    )


def drivers(*names: str, records: tuple[PluginRecord, ...] = ()) -> Registry[Any]:
    return Registry("driver", offered("driver", *map(driver_offer, names)), hints=install_hints(records))


def test_a_factory_is_called_once_and_again_only_for_other_arguments():
    calls: list[tuple[object, ...]] = []
    offer = offers.SupervisorOffer(name="acme", summary="", factory=lambda *args: calls.append(args) or len(calls))
    registry: Registry[Any] = Registry("supervisor", offered("supervisor", offer))
    home = Path("/home/a")
    assert registry.get("acme", home, "id", Settings()) == 1
    assert registry.get("acme", Path("/home/a"), "id", Settings()) == 1
    assert registry.get("acme", Path("/home/b"), "id", Settings()) == 2
    assert len(calls) == 2


def test_threads_that_ask_at_once_get_the_same():
    calls: list[int] = []

    def factory() -> object:
        calls.append(1)
        time.sleep(0.05)
        return object()

    registry: Registry[Any] = Registry("driver", offered("driver", driver_offer("acme", factory)))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(registry.get, ["acme"] * 4))
    assert len(set(map(id, made))) == 1
    assert calls == [1]


def test_a_factory_that_failed_is_tried_again():
    fine: list[int] = []

    def factory() -> str:
        if not fine:
            raise OSError("not yet")
        return "made"

    registry: Registry[Any] = Registry("VRAM estimator", offered("VRAM estimator", driver_offer("acme", factory)))
    with pytest.raises(Failed) as caught:
        registry.get("acme")
    assert caught.value.code == "plugin-broken"
    assert "'acme' of acme-dist" in caught.value.info.message
    assert "OSError: not yet" in caught.value.info.why
    fine.append(1)
    assert registry.get("acme") == "made"


def test_what_a_factory_says_in_our_own_words_passes():
    def factory() -> None:
        raise MachineLacks("no-engine", "there is no container engine")

    with pytest.raises(MachineLacks, match="container engine"):
        Registry("driver", offered("driver", driver_offer("acme", factory))).get("acme")


@pytest.mark.parametrize(
    ("asked", "there", "hint"),
    [
        ("vllm", (), 'pip install "gpumod[vllm]"'),
        ("docker", ("vllm",), 'pip install "gpumod[docker]"'),
        ("vlm", ("vllm", "llamacpp"), "did you mean vllm?"),
        ("lamacpp", ("vllm",), 'did you mean llamacpp? pip install "gpumod[llamacpp]"'),
        ("xyz", ("vllm",), "`gpumod plugins` lists what there is"),
    ],
)
def test_an_unknown_name_says_what_to_try(asked, there, hint):
    with pytest.raises(UnknownName) as caught:
        drivers(*there).get(asked)
    assert (caught.value.code, caught.value.exit_code) == ("unknown-driver", 4)
    assert caught.value.info.hint == hint


def test_an_installed_plugin_that_is_kept_out_or_broken_is_not_to_be_installed_again():
    broken = ErrorInfo(code="plugin-import-failed", message="the plugin 'vllm' was not loaded", why="no torch")
    records = (
        PluginRecord(name="vllm", distribution="gpumod-vllm", version="1", error=broken),
        PluginRecord(name="sim", distribution="gpumod-sim", version="1", disabled="GPUMOD_PLUGINS"),
    )
    for name, hint in (("vllm", "was not loaded: no torch"), ("sim", "is kept out by GPUMOD_PLUGINS")):
        with pytest.raises(UnknownName) as caught:
            drivers(records=records).get(name)
        assert hint in caught.value.info.hint


def test_what_is_for_adopted_services_alone_is_no_choice_that_is_named() -> None:
    found = (("process", False), ("adopted-process", True))
    made = [offers.SupervisorOffer(name=name, summary="", factory=list, adopts=adopts) for name, adopts in found]
    registry: Registry[Any] = Registry("supervisor", offered("supervisor", *made))
    with pytest.raises(UnknownName) as caught:
        registry.offer("processes")
    assert (caught.value.info.why, caught.value.info.hint) == ("there are: process", "did you mean process?")


def test_a_name_that_two_claim_is_a_usage_error():
    conflict = ErrorInfo(code="duplicate-offer", message="twice", details={"distributions": ["a", "b"]})
    registry: Registry[Any] = Registry("driver", {}, {"acme": conflict})
    assert registry.names() == ()
    with pytest.raises(UsageError) as caught:
        registry.get("acme")
    assert caught.value.info == conflict


@given(st.text(max_size=20))
def test_any_name_is_found_or_told(name):
    registry = drivers("vllm", "acme")
    if name in registry:
        assert name in registry.names()
        return
    with pytest.raises(UnknownName) as caught:
        registry.get(name)
    assert caught.value.code == "unknown-driver"
    assert caught.value.info.hint


def test_sleep_strategies_by_driver_and_level():
    table = {key: Offered("sleep level", driver_offer(key, object), "d") for key in ("vllm/l1", "vllm/l2")}
    strategies = SleepStrategies(Registry("sleep level", table))
    assert strategies.get("vllm", "l1") is table["vllm/l1"].make()
    assert strategies.offer("vllm", "l2") is table["vllm/l2"]
    assert strategies.levels("vllm") == ("l1", "l2")
    assert strategies.levels("fastapi") == ()
    with pytest.raises(UnknownName) as caught:
        strategies.get("vllm", "router")
    assert caught.value.code == "unknown-sleep-level"
    assert caught.value.info.why == "they can at: l1, l2"


def probe(name: str, order: int, why_not: str | None) -> offers.GpuProbeOffer:
    def available(settings: Settings) -> str | None:
        if why_not == "raise":
            raise OSError("no library")
        return why_not

    return offers.GpuProbeOffer(name=name, summary="", order=order, available=available, factory=lambda _: name)


def test_the_first_available_probe_or_the_one_that_is_set():
    table = offered(
        "GPU probe", probe("b", 1, "no GPU"), probe("a", 2, "raise"), probe("d", 4, None), probe("c", 3, None)
    )
    assert plugins(gpu_probes=table).gpu_probe(Settings()) == "c"
    assert plugins(gpu_probes=table).gpu_probe(Settings(gpu_probe="d")) == "d"
    with pytest.raises(MachineLacks) as caught:
        plugins(gpu_probes=table).gpu_probe(Settings(gpu_probe="b"))
    assert caught.value.info.why == "b: no GPU"
    with pytest.raises(UnknownName):
        plugins(gpu_probes=table).gpu_probe(Settings(gpu_probe="z"))


def test_where_no_probe_is_available_each_says_why():
    with pytest.raises(MachineLacks) as caught:
        plugins(gpu_probes=offered("GPU probe", probe("b", 1, "no GPU"), probe("a", 2, "raise"))).gpu_probe(Settings())
    assert caught.value.code == "no-gpu-probe"
    assert caught.value.info.why.startswith("b: no GPU; a: OSError: no library")


class Estimates:
    """An estimator that answers with what it was made with, or raises it."""

    def __init__(self, answer: Estimate | Exception | None) -> None:
        self.answer = answer

    def estimate(self, service: Service, gpu_total_mb: int, info: ModelInfo | None) -> Estimate | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def estimator(name: str, answer: Estimate | Exception | None, *serves: str) -> offers.VramEstimatorOffer:
    return offers.VramEstimatorOffer(name=name, summary="", drivers=serves, factory=lambda: Estimates(answer))


def test_every_estimator_that_serves_the_driver_is_asked_and_none_stops_the_others():
    fine = Estimate(estimator="fine", vram_mb=5)
    table = offered(
        "VRAM estimator",
        estimator("fine", fine, "acme"),
        estimator("other", fine, "vllm"),
        estimator("silent", None),
        estimator("raises", ZeroDivisionError("oh")),
        estimator("tells", UsageError("bad", "no such file", why="gone")),
        offers.VramEstimatorOffer(name="unmade", summary="", factory=lambda: 1 // 0),  # type: ignore[arg-type,return-value]
    )
    answers = {answer.estimator: answer for answer in plugins(estimators=table).estimate(SERVICE, 24564, None)}
    assert set(answers) == {"fine", "raises", "tells", "unmade"}
    assert answers["fine"] == fine
    assert answers["raises"].vram_mb is None
    assert "ZeroDivisionError: oh" in answers["raises"].why
    assert answers["tells"].why == "failed: no such file gone"
    assert "acme-dist" in answers["unmade"].why


class Knows:
    """A source that answers with what it was made with, or raises it."""

    def __init__(self, answer: ModelInfo | Exception | None) -> None:
        self.answer = answer

    def info(self, service: Service, settings: Settings) -> ModelInfo | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def source(name: str, order: int, answer: ModelInfo | Exception | None) -> offers.ModelInfoSourceOffer:
    return offers.ModelInfoSourceOffer(name=name, summary="", order=order, factory=lambda: Knows(answer))


def test_model_info_is_merged_field_by_field_with_provenance():
    table = offered(
        "model info source",
        source("late", 9, ModelInfo(model="late", fields={"a": 3, "c": 3})),
        source("first", 1, ModelInfo(model="first", fields={"a": 1}, provenance={"a": "a.gguf"})),
        source("silent", 2, None),
        source("broken", 3, OSError("offline")),
        source("told", 4, UsageError("x", "no such model")),
    )
    info = plugins(info_sources=table).model_info(SERVICE, Settings())
    assert info is not None
    assert (info.model, info.fields) == ("first", {"a": 1, "c": 3})
    assert info.provenance["a"] == "a.gguf"
    assert info.provenance["c"] == "late"
    assert info.provenance["failed:broken"].startswith("OSError: offline")
    assert info.provenance["failed:told"] == "no such model"


def test_nobody_knows_the_model():
    assert plugins().model_info(SERVICE, Settings()) is None
    only = plugins(info_sources=offered("model info source", source("broken", 1, OSError("x"))))
    info = only.model_info(SERVICE, Settings())
    assert info is not None
    assert (info.model, info.fields) == ("a/b", {})


infos = st.lists(
    st.builds(ModelInfo, model=st.just("m"), fields=st.dictionaries(st.sampled_from("abc"), st.integers())), max_size=4
)


@given(infos)
def test_merging_loses_no_field_and_prefers_the_first(answers):
    merged = merge_info(answers)
    if merged is None:
        assert not answers
        return
    for key in {key for answer in answers for key in answer.fields}:
        assert merged.fields[key] == next(answer.fields[key] for answer in answers if key in answer.fields)
    assert merged.fields.keys() == merged.provenance.keys()


@pytest.mark.parametrize(
    ("hook", "offer", "why"),
    [
        ("gpumod_drivers", offers.PresetsOffer(name="x", summary="", folder=Path()), "not a DriverOffer"),
        ("gpumod_drivers", driver_offer("a b"), "cannot be a name"),
        ("gpumod_drivers", driver_offer(5), "cannot be a name"),  # type: ignore[arg-type]
        ("gpumod_drivers", offers.DriverOffer(name="x", summary=None, factory=object), "its summary"),  # type: ignore[arg-type]
        ("gpumod_drivers", driver_offer("x", None), "factory"),
        (
            "gpumod_sleep_strategies",
            offers.SleepStrategyOffer(name="l1", summary="", drivers="vllm", factory=object),  # type: ignore[arg-type]
            "drivers must be a tuple",
        ),
        ("gpumod_presets", offers.PresetsOffer(name="x", summary="", folder="x"), "not a Path"),  # type: ignore[arg-type]
        (
            "gpumod_gpu_probes",
            offers.GpuProbeOffer(name="x", summary="", available=None, factory=print),  # type: ignore[arg-type]
            "its available cannot be called",
        ),
        ("gpumod_presets", offers.PresetsOffer(name="x", summary="", folder=Path(), api=2), "plugin API 2"),
    ],
)
def test_an_offer_that_cannot_be_used_is_refused(hook, offer, why):
    with pytest.raises(Refused, match=why):
        check_offer(hook, offer)
