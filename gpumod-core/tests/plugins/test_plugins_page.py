"""docs/plugins.md says what is: its examples load, its signatures and codes are the real ones."""

import dataclasses
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from gpumod.api import Allocation, Driver, HttpFailure, HttpReply, Service, Settings
from gpumod.plugins import checks, entries, hookspecs, loader, offers, registry
from gpumod.plugins.entries import Entry
from gpumod.plugins.loader import load_plugins

PAGE_PATH = Path(__file__).parents[3] / "docs" / "plugins.md"
if not PAGE_PATH.exists():
    pytest.skip("the documentation is not here (tests of an installed distribution)", allow_module_level=True)
PAGE = PAGE_PATH.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    """The page's modules, loaded as plugins."""
    monkeypatch.syspath_prepend(tmp_path)
    listed = []
    for n, source in enumerate(blocks("python")):
        (tmp_path / f"plugins_page_{n}.py").write_text(source)
        listed.append(Entry("acme", f"plugins_page_{n}", f"acme-{n}", "1.0"))
    return load_plugins({}, listed)


def test_the_examples_load(plugins):
    assert [(record.error, record.problems) for record in plugins.records] == [(None, ())] * 2


def test_the_smallest_one_is_small_and_estimates(plugins):
    lines = [line for line in blocks("python")[0].splitlines() if line]
    assert len(lines) <= 12
    service = Service(id="chat", driver="vllm", model_id="acme/small")
    assert [estimate.vram_mb for estimate in plugins.estimate(service, 24564, None)] == [3700]
    assert plugins.estimate(service.model_copy(update={"model_id": "x"}), 24564, None) == ()


class Answers:
    """An HTTP that answers with what it was made with."""

    def __init__(self, answer: HttpReply | HttpFailure) -> None:
        self.answer = answer

    async def request(self, method: str, port: int, path: str, **_: object) -> HttpReply:
        if isinstance(self.answer, HttpFailure):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (HttpReply(status=200), "ready"),
        (HttpReply(status=503), "starting"),
        (HttpFailure("refused", "refused"), "starting"),
        (HttpFailure("timeout", "2 s"), "unhealthy"),
    ],
)
async def test_the_driver_of_the_page_is_a_driver(plugins, answer, state):
    driver = plugins.drivers.get("acme")
    assert isinstance(driver, Driver)
    service = Service(id="chat", driver="acme", port=8000, model_path="/m")
    driver.check(service)
    with pytest.raises(ValueError, match="needs a port"):
        driver.check(Service(id="chat", driver="acme"))
    assert driver.launch(service, Allocation(), Settings()).ports == (8000,)
    assert (await driver.probe(service, 8000, Answers(answer))).state == state


def test_each_hook_stands_there_with_its_exact_signature():
    shown = re.findall(r"^\| `(gpumod_\w+\(.*?\) -> .*?)` \|", PAGE, re.MULTILINE)
    specs = {name: spec for name, spec in vars(hookspecs).items() if hasattr(spec, "gpumod_spec")}
    assert shown == [f"{name}{inspect.signature(spec)}".replace("'", "") for name, spec in specs.items()]


def test_each_record_stands_there_with_its_fields():
    rows = dict(re.findall(r"^\| `(\w+Offer)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert list(rows) == [kind.offer.__name__ for kind in checks.KINDS.values()]
    common = {field.name for field in dataclasses.fields(offers.Offer)}
    for kind in checks.KINDS.values():
        own = {field.name for field in dataclasses.fields(kind.offer)} - common
        told = set(re.findall(r"`(\w+)[(`]", rows[kind.offer.__name__])) & {"factory", "drivers", "order", *own}
        assert told == own


def test_the_metadata_names_the_module_of_the_page():
    small, commands = map(tomllib.loads, blocks("toml"))
    assert small["project"]["entry-points"] == {entries.PLUGINS_GROUP: {"acme": "acme_gpumod"}}
    assert list(commands["project"]["entry-points"]) == [entries.COMMANDS_GROUP]
    (console,) = blocks("console")
    assert f"{small['project']['name']} {small['project']['version']}" in console
    assert f"plugin API {offers.PLUGIN_API}" in console


def test_every_code_stands_there():
    table = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE.partition("## When a plugin is broken")[2], re.MULTILINE))
    sources = "".join(inspect.getsource(module) for module in (checks, entries, loader, registry))
    assert table == set(re.findall(r'"(plugin-[a-z-]+|duplicate-offer)"', sources))


def test_both_variables_stand_there():
    for variable in (loader.ALLOW, loader.DENY):
        assert f"`{variable}`" in PAGE
