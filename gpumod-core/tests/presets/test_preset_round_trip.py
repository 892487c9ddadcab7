"""What gpumod writes as a preset loads through its own loader; what is loaded again keeps the user's word."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from gpumod.adapters.presets import dump_mode_preset, dump_service_preset, load_presets, merge_for_reload
from gpumod.adapters.presets.strict_yaml import BadYaml, parse_document
from gpumod.domain.adopted import Adopted
from gpumod.domain.base import has_control_characters
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings

ids = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
texts = st.text(max_size=40).filter(lambda text: not has_control_characters(text))
paths = texts | st.text(st.sampled_from("~$/{}aM_ "), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


def service_of(*, vram_mb: int, asleep_mb: int | None, **fields: Any) -> Service:
    """What it keeps asleep is no more than what it takes awake, where that is known."""
    asleep = asleep_mb if asleep_mb is None or not vram_mb else min(asleep_mb, vram_mb)
    return Service(vram_mb=vram_mb, asleep_mb=asleep, **fields)


services = st.builds(
    service_of,
    id=ids,
    name=texts,
    driver=ids,
    port=st.none() | st.integers(1, 65535),
    vram_mb=st.integers(0, 10**8),
    asleep_mb=st.none() | st.integers(0, 10**8),
    context_size=st.none() | st.integers(1, 10**8),
    kv_cache_per_1k=st.none() | st.floats(0, 10**6),
    model_id=st.none() | texts,
    model_path=st.none() | paths,
    startup_timeout=st.floats(0.01, 86_400),
    sleep_mode=st.just("none") | ids,
    unit_template=st.none() | ids | ids.map("/{}.j2".format),
    unit_vars=st.dictionaries(texts, values, max_size=4)
    | st.fixed_dictionaries({"cwd": paths | scalars, "mmproj": paths}),
    role=st.none() | ids,
    gpus=st.just("any") | st.lists(st.integers(0, 255), min_size=1, max_size=3, unique=True).map(tuple),
    pinned=st.booleans(),
)
modes = st.builds(
    Mode,
    id=ids,
    name=texts,
    description=texts,
    members=st.lists(
        st.builds(ModeMember, service=ids, want=st.sampled_from(Want), start_order=st.integers(-1_000_000, 1_000_000)),
        max_size=4,
        unique_by=lambda member: member.service,
    ).map(tuple),
)
in_a_folder = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_a_folder
@given(services)
def test_a_dumped_service_loads_as_itself(tmp_path: Path, service: Service) -> None:
    (tmp_path / "a.yaml").write_text(dump_service_preset(service), encoding="utf-8")
    catalogue = load_presets([("me", tmp_path)], Settings())
    assert catalogue.problems == ()
    assert catalogue.services[service.id].value == service


@in_a_folder
@given(modes)
def test_a_dumped_mode_loads_as_itself(tmp_path: Path, mode: Mode) -> None:
    (tmp_path / "a.yaml").write_text(dump_mode_preset(mode), encoding="utf-8")
    catalogue = load_presets([("me", tmp_path)], Settings())
    assert catalogue.problems == ()
    assert catalogue.modes[mode.id].value == mode


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_makes_the_parser_raise_anything_else(text: str) -> None:
    with suppress(BadYaml):
        parse_document(text)


OLD = Service(id="a", driver="vllm", port=1, vram_mb=10, name="mine")
NEW = Service(id="a", driver="vllm", port=2, vram_mb=20, name="preset's", role="r")


@pytest.mark.parametrize(
    ("old", "edited", "update", "merged", "kept"),
    [
        (None, {"port"}, False, NEW, ()),
        (OLD, set(), False, NEW, ()),
        (OLD, {"vram_mb", "port", "gone", "id"}, False, NEW.model_copy(update={"port": 1, "vram_mb": 10}),
         ("port", "vram_mb")),
        (OLD, {"vram_mb", "port"}, True, NEW, ()),
        (NEW, {"vram_mb", "role"}, False, NEW, ()),
    ],
)  # fmt: skip
def test_loading_again_keeps_what_the_user_edited(
    old: Service | None, edited: set[str], update: bool, merged: Service, kept: tuple[str, ...]
) -> None:
    assert merge_for_reload(old, NEW, frozenset(edited), update) == (merged, kept)


@pytest.mark.parametrize("adopted", [None, Adopted(unit="another.service", manager="system")])
def test_no_preset_makes_something_else_of_what_was_adopted(adopted: Adopted | None) -> None:
    old = OLD.model_copy(update={"adopted": Adopted(unit="theirs.service", manager="system")})
    new = NEW.model_copy(update={"adopted": adopted})
    assert merge_for_reload(old, new, frozenset(), update=True) == (old, ("adopted",))


def test_a_merge_that_would_contradict_itself_leaves_what_is_stored() -> None:
    old = OLD.model_copy(update={"start_peak_mb": 15, "role": "r"})
    merged = merge_for_reload(old, NEW, frozenset({"start_peak_mb"}), update=False)
    assert merged == (old, ("name", "port", "start_peak_mb", "vram_mb"))


@pytest.mark.slow
@given(services, services, st.sets(st.sampled_from(sorted(Service.model_fields))))
def test_a_merge_takes_each_field_from_one_of_the_two(old: Service, new: Service, edited: set[str]) -> None:
    old = old.model_copy(update={"id": new.id})
    vram_mb, asleep_mb = (getattr(old if f in edited else new, f) for f in ("vram_mb", "asleep_mb"))
    assume(not vram_mb or (asleep_mb or 0) <= vram_mb)
    merged, kept = merge_for_reload(old, new, frozenset(edited), update=False)
    assert set(kept) == {field for field in edited if getattr(old, field) != getattr(new, field)}
    for field in Service.model_fields:
        assert getattr(merged, field) == getattr(old if field in kept else new, field)
