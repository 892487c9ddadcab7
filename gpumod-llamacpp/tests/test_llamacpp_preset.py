"""The router's preset file, read back by a small parser of llama.cpp's dialect."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumod.api import Allocation, GpuShare, Service, Settings, UsageError
from gpumod_llamacpp.driver import LlamaCppDriver
from gpumod_llamacpp.options import model_settings

DRIVER = LlamaCppDriver()
HOST = Service(id="router", driver="llamacpp", port=8080, unit_vars={"router": True})


def a_member(name: str = "chat", **fields: Any) -> Service:
    known = {"id": name, "driver": "llamacpp", "host": "router", "model_path": "/m/a.gguf", "sleep_mode": "router"}
    return Service.model_validate(known | fields)


def on_card(vram_mb: int) -> Allocation:
    return Allocation(gpus=(GpuShare(index=0, total_mb=24564, budget_mb=24052, vram_mb=vram_mb),))


def render(*members: Service) -> str:
    file = DRIVER.members_file(HOST, [(member, on_card(7000)) for member in members], Settings())
    assert file.name == "models.ini"
    return file.content


def parse(text: str) -> dict[str, dict[str, str]]:
    """As llama.cpp reads it: `;` and `#` end a value anywhere, a repeated section replaces the earlier one."""
    sections: dict[str, dict[str, str]] = {}
    current: dict[str, str] = {}
    for line in text.split("\n"):
        if not line.strip() or re.match(r"\s*[;#]", line):
            continue
        if match := re.fullmatch(r"\[([^\]]*)\].*", line):
            current = sections[match[1]] = {}
            continue
        key, equals, value = line.partition("=")
        assert equals, f"a line without = ends the router: {line!r}"
        current[key.strip()] = re.split(r"\s*[;#]", value, maxsplit=1)[0].strip()
    return sections


def test_without_members_the_file_is_only_its_version() -> None:
    assert render() == "version = 1\n"


def test_a_member_is_a_section_with_its_memory_in_a_comment() -> None:
    options = {"flash_attn": True, "cache_type_k": "q8_0", "extra_args": ["--jinja", "--threads", "4", "--seed", "-1"]}
    options |= {"stop_timeout_s": 3}
    assert render(a_member(context_size=8192, unit_vars=options)) == (
        "version = 1\n\n[chat]\n; gpumod: vram_mb=7000\nmodel = /m/a.gguf\nctx-size = 8192\nn-gpu-layers = 999\n"
        "fit = off\nflash-attn = on\ncache-type-k = q8_0\nmetrics = true\njinja = true\nthreads = 4\nseed = -1\n"
        "stop-timeout = 3\n"
    )


def test_members_are_in_one_order_whatever_the_order_given() -> None:
    one, two = a_member("a"), a_member("b", model_path=None, model_id="org/repo:Q4_K_M")
    assert render(one, two) == render(two, one)
    assert parse(render(one, two))["b"]["hf-repo"] == "org/repo:Q4_K_M"


BAD_TEXTS = ["/m/a;b.gguf", "/m/#1.gguf", "/m/a.gguf ", " /m/a", "/m/a\u2028b"]


@pytest.mark.parametrize("path", BAD_TEXTS)
def test_what_the_dialect_cannot_hold_is_refused(path: str) -> None:
    member = a_member().model_copy(update={"model_path": path})
    with pytest.raises(ValueError, match="chat"):
        DRIVER.check(member)
    with pytest.raises(UsageError) as caught:
        render(member)
    assert caught.value.code == "bad-ini-value"
    assert "chat" in caught.value.info.message


TWICE = ["--lora", "/a.gguf", "--lora=/b.gguf"]


@pytest.mark.parametrize("extra", [["4"], ["--a b", "1"], ["--x=1;2"], ["--x", "a\nb"], ["--x", ""], ["-"], TWICE])
def test_extra_args_that_make_no_lines_are_refused(extra: list[str]) -> None:
    with pytest.raises(ValueError, match="chat"):
        DRIVER.check(a_member().model_copy(update={"unit_vars": {"extra_args": extra}}))


ids = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z")
texts = st.text(st.characters(exclude_categories=("C", "Z")) | st.sampled_from(' =[]"\\%$;#'), max_size=20)
members = st.builds(
    lambda name, path, ctx, options: a_member(name, model_path="/" + path, context_size=ctx, unit_vars=options),
    ids,
    texts,
    st.none() | st.integers(1, 10**6),
    st.fixed_dictionaries(
        {},
        optional={
            "n_gpu_layers": st.integers(0, 99),
            "parallel": st.integers(1, 8),
            "flash_attn": st.sampled_from(["on", "off", "auto"]),
            "mmproj": texts.map(lambda text: "/" + text),
            "embeddings": st.booleans(),
            "pooling": st.sampled_from(["mean", "cls"]),
        },
    ),
)


@given(st.lists(members, max_size=4, unique_by=lambda member: member.id))
def test_what_is_accepted_parses_back_to_the_same_members(given_members: list[Service]) -> None:
    accepted = []
    for member in given_members:
        try:
            DRIVER.check(member)
        except ValueError:
            continue
        accepted.append(member)
    read = parse(render(*accepted))
    assert set(read) == {member.id for member in accepted}
    for member in accepted:
        expected = {key: "true" if value is None else value for key, value in model_settings(member)}
        assert read[member.id] == expected
        assert "load-on-startup" not in read[member.id]


@given(members)
def test_a_file_is_never_written_with_what_would_be_read_otherwise(member: Service) -> None:
    try:
        text = render(member)
    except UsageError:
        return
    path = member.model_path or ""
    assert not set(path) & set(";#\n\r")
    assert parse(text)[member.id]["model"] == path


@pytest.mark.parametrize(
    ("gpus", "visible", "lines"),
    [
        ((0,), (0,), {}),
        ((1,), (0, 1), {"device": "CUDA1", "split-mode": "none"}),
        ((3,), (2, 3), {"device": "CUDA1", "split-mode": "none"}),  # counted as its router sees them
        ((0, 2), (0, 1, 2), {"device": "CUDA0,CUDA2", "split-mode": "layer"}),
        ((0, 1), (0, 1), {}),
        ((), (0, 1), {}),
    ],
)
def test_a_member_is_told_which_of_its_routers_gpus_are_its_own(
    gpus: tuple[int, ...], visible: tuple[int, ...], lines: dict[str, str]
) -> None:
    shares = tuple(GpuShare(index=gpu, total_mb=24564, budget_mb=24052, vram_mb=3500) for gpu in gpus)
    seat = Allocation(gpus=shares, visible=visible)
    read = parse(DRIVER.members_file(HOST, [(a_member(), seat)], Settings()).content)["chat"]
    assert {key: value for key, value in read.items() if key in ("device", "split-mode")} == lines
    mine = a_member(unit_vars={"extra_args": ["--device", "CUDA7"]})
    read = parse(DRIVER.members_file(HOST, [(mine, seat)], Settings()).content)["chat"]
    assert {key: value for key, value in read.items() if key in ("device", "split-mode")} == {"device": "CUDA7"}
