"""A box as YAML: what is written loads as itself, secrets stay at home, what is wrong is named with its line."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumod.adapters.presets import bad_box, dump_box, read_box
from gpumod.domain.base import has_control_characters
from gpumod.domain.box import Box
from gpumod.domain.errors import UsageError
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings

ids = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
texts = st.text(max_size=30).filter(lambda text: not has_control_characters(text))
words = texts | st.sampled_from(
    ["--api-key", "--api-key=x", "-p", "--hf-token", "http://a:b@c/", "run --api-key 'a b' -x"]
)
keys = texts | st.sampled_from(["HF_TOKEN", "env", "password", "max_tokens", "args"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
services = st.builds(
    Service,
    id=ids,
    name=texts,
    driver=ids,
    port=st.none() | st.integers(1, 65535),
    model_path=st.none() | texts | st.text(st.sampled_from("~$/{}aM_ "), max_size=12),
    unit_vars=st.dictionaries(keys, values, max_size=4),
    gpus=st.just("any") | st.lists(st.integers(0, 255), min_size=1, max_size=3, unique=True).map(tuple),
)
members = st.builds(ModeMember, service=ids, want=st.sampled_from(Want), start_order=st.integers(-1_000_000, 1_000_000))
modes = st.builds(
    Mode, id=ids, name=texts, members=st.lists(members, max_size=4, unique_by=lambda m: m.service).map(tuple)
)
boxes = st.builds(
    lambda services, modes, reserve_mb: Box(
        {s.id: s for s in services}, {m.id: m for m in modes}, {"reserve_mb": str(reserve_mb)}
    ),
    st.lists(services, max_size=3),
    st.lists(modes, max_size=3),
    st.integers(0, 10**6),
)


def load(text: str, source: str, settings: Settings) -> Box:
    read = read_box(text, source, settings)
    if read.problems:
        raise bad_box(source, list(read.problems))
    return read.box


@settings(max_examples=40, deadline=None)
@given(boxes)
def test_a_dumped_box_loads_as_itself_and_is_dumped_the_same(box: Box) -> None:
    text = dump_box(box)
    loaded = load(text, "box.yaml", Settings())
    assert loaded == box
    assert dump_box(loaded) == text


def test_paths_are_expanded_with_the_settings_of_the_document() -> None:
    text = "version: 1\nsettings: {models_dir: /m}\nservices: [{id: a, driver: d, model_path: $MODELS_DIR/x}]\n"
    assert load(text, "b", Settings(models_dir="/other")).services["a"].model_path == "/m/x"
    text = text.replace("/m}", "null}")
    assert str(load(text, "b", Settings(models_dir="/other")).services["a"].model_path).endswith("/models/x")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a: 1", "version: 1, w"),
        ("version: '1'", "version: 1, w"),
        ("version: 2", "upgrade"),
        ("id: a", "it looks like"),
    ],
)
def test_how_a_version_that_is_not_read_is_mended(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text, "b.yaml", Settings())
    assert caught.value.info.hint.startswith(hint)


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("", "bad-box", "holds no mapping"),
        ("[1]", "bad-box", "holds no mapping"),
        ("a: b: c", "bad-box", "b.yaml:1: is not valid YAML"),
        ("version: 1\nversion: 1", "bad-box", "b.yaml:2: names the key 'version' twice"),
        ("version: 1\nservices: &a []\nmodes: *a", "bad-box", "anchors"),
        ("services: []", "box-version", "version is missing"),
        ("version: 2", "box-version", "b.yaml:1: field version is 2"),
        ("version: true", "box-version", "version is True"),
        ("version: 1\nserivces: []", "bad-box", "b.yaml:2: field serivces is unknown"),
        ("version: 1\nservices: {a: 1}", "bad-box", "must be a list of services"),
        ("version: 1\nservices: [a]", "bad-box", "services.0 must be a mapping"),
        ("version: 1\nservices:\n- {id: a, driver: d}\n- {id: a, driver: d}", "bad-box", "yaml:4: defines service 'a'"),
        ("version: 1\nservices:\n- {id: ../a, driver: d}", "bad-box", "b.yaml:3: field id is not a name"),
        ("version: 1\nservices:\n- id: a\n  driver: d\n  prot: 1", "bad-box", "b.yaml:5: field prot is unknown"),
        ("version: 1\nservices:\n- {id: a, driver: d, model_path: $NO/x}", "bad-box", "field model_path uses '$NO'"),
        ("version: 1\nmodes:\n- id: m\n  services: [a, a]", "bad-box", "names a twice"),
        ("version: 1\nmodes:\n- id: m\n  members: [a]", "bad-box", "field members is unknown"),
        ("version: 1\nsettings: [a]", "bad-box", "settings must be a mapping"),
        ("version: 1\nsettings: {reserve_mb: x}", "bad-box", "reserve_mb cannot be 'x'"),
        ("version: 1\nsettings: {reserve_mb: true}", "bad-box", "settings.reserve_mb must be a text or a number"),
        ("version: 1\nsettings:\n  nope: 1", "bad-box", "b.yaml:3: there is no setting 'nope'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, code: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text, "b.yaml", Settings())
    assert caught.value.code == code
    assert named in f"{caught.value.info.message}\n{caught.value.info.why}"


@pytest.mark.parametrize(
    ("text", "source", "hint"),
    [
        ("version: 1\nservices: [a]", "my box.yaml", "`gpumod diff -f 'my box.yaml'` checks it again"),
        ("version: 1\nservices: [a]", "stdin", "`gpumod diff -f -` checks it again"),
        ("version: 1\nservices: [a, {id: b, prot: 1}]", "b.yaml", "`gpumod diff -f b.yaml` checks it again"),
        ("services: []", "b.yaml", "version: 1"),
        ("id: a\ndriver: d", "/p/a.yaml", "it looks like a preset: `gpumod preset load --folder /p`"),
    ],
)
def test_what_to_try_is_said_with_the_command(text: str, source: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(text, source, Settings())
    assert caught.value.info.hint.startswith(hint)


def test_all_problems_are_told_at_once() -> None:
    text = "version: 1\nsettings: {a: 1}\nservices: [{id: a, prot: 1}, 5]\nmodes: [{id: /}]"
    read = read_box(text, "b.yaml", Settings())
    assert len(read.problems) == 5
    assert read.unread is None


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ("services: [{id: a, driver: d}]", frozenset()),
        ("services: [{id: a, driver: d}, {id: b, prot: 1}]", frozenset("b")),
        ("services: [{id: a, driver: d}, {driver: d}]", None),
        ("services: [{id: [a], driver: d}]", None),
        ("services: {a: 1}", None),
        ("serivces: [{id: a, driver: d}]", None),
        ("modes: [{id: /}]", frozenset()),
    ],
)
def test_what_could_not_be_read_is_known(text: str, unread: frozenset[str] | None) -> None:
    assert read_box(f"version: 1\n{text}", "b.yaml", Settings()).unread == unread


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_makes_the_loader_raise_anything_else(text: str) -> None:
    for whole in (text, f"version: 1\nservices: {text}", f"version: 1\nsettings:\n {text}"):
        with suppress(UsageError):
            load(whole, "b.yaml", Settings())
