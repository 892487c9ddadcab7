"""docs/plugins says what is: its examples load and keep their promises, its signatures and codes are the real ones.

GPUMOD_UPDATE_SNAPSHOTS=1 writes the signatures anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gpumod import api
from gpumod.api import Driver, Service
from gpumod.plugins import checks, entries, hookspecs, loader, offers, registry
from gpumod.plugins.entries import Entry
from gpumod.plugins.loader import load_plugins
from gpumod.plugins.registry import Plugins
from gpumod.testing import (
    DriverCase,
    DriverSuite,
    EstimatorCase,
    EstimatorSuite,
    ModelInfoCase,
    ModelInfoSourceSuite,
    SleepCase,
    SleepStrategySuite,
)
from gpumod.testing.web import Answer, Call

FOLDER = Path(__file__).parents[3] / "docs" / "plugins"
if not FOLDER.is_dir():
    pytest.skip("the documentation is not here (tests of an installed distribution)", allow_module_level=True)
HOOKS = {
    "drivers": ("gpumod_drivers", offers.DriverOffer, api.Driver, api.Capabilities, api.Launch, api.LaunchFile,
                api.Allocation, api.GpuShare, api.ProbeResult, api.Http, api.HttpReply),
    "sleep-strategies": ("gpumod_sleep_strategies", offers.SleepStrategyOffer, api.SleepStrategy, api.Clock),
    "vram-estimators": ("gpumod_vram_estimators", offers.VramEstimatorOffer, api.VramEstimator, api.Estimate),
    "model-info-sources": (
        "gpumod_model_info_sources", offers.ModelInfoSourceOffer, api.ModelInfoSource, api.ModelInfo,
    ),
    "supervisors": ("gpumod_supervisors", offers.SupervisorOffer, api.Supervisor, api.Handle, api.ProcessStatus,
                    api.AsksPrograms),
    "gpu-probes": ("gpumod_gpu_probes", offers.GpuProbeOffer, api.GpuProbe, api.GpuReading, api.GpuProcess, api.Ram,
                   api.NumbersGpus, api.TellsFindings),
    "presets": ("gpumod_presets", offers.PresetsOffer),
    "templates": ("gpumod_templates", offers.TemplatesOffer),
    "driver-powers": (None, api.ReadsItsLog, api.FatalLine, api.ChecksVariables, api.OffersVariants, api.Variant,
                      api.HostsMembers, api.MemberReading, api.NamesMembers, api.ReportsActivity, api.Activity,
                      api.SuitsItsProgram, api.Answer, api.ReadsCommands, api.CommandLine, api.Told,
                      api.NeedsFormats, api.FormatNeed),
}  # fmt: skip
"""Page -> its hook, and the classes whose signatures it shows."""
MARKED = re.compile(r"<!-- the code says: -->\n(.*?)<!-- until here -->", re.DOTALL)


def page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page(name), re.DOTALL | re.MULTILINE)


def signature(name: str, function: Any) -> str:
    return f"{name}{inspect.signature(function)}".replace("'", "")


def members(shown: type) -> Iterator[str]:
    """The fields and methods of a record, a model or a protocol, in their order."""
    if dataclasses.is_dataclass(shown):
        for field in dataclasses.fields(shown):
            default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
            yield f"    {field.name}: {field.type}{default}"
        return
    for name, annotation in vars(shown).get("__annotations__", {}).items():
        field = shown.model_fields.get(name) if issubclass(shown, BaseModel) else None
        default = "" if field is None or field.is_required() else f" = {field.get_default()!r}"
        default = default if name != "mode" else f" = 0o{field.get_default():o}" if field else ""
        yield f"    {name}: {annotation}{default}"
    for name, function in vars(shown).items():
        if inspect.isfunction(function) and not name.startswith("_"):
            word = "async def" if inspect.iscoroutinefunction(function) else "def"
            yield f"    {word} {signature(name, function)}"


def told(name: str) -> str:
    """What the code says about a page's hook."""
    hook, *classes = HOOKS[name]
    parts = [] if hook is None else [signature(hook, getattr(hookspecs, hook))]
    parts += ["\n".join([f"class {shown.__name__}:", *members(shown)]) for shown in classes]
    return "```text\n" + "\n\n".join(parts) + "\n```\n"


@pytest.mark.parametrize("name", HOOKS)
def test_each_hook_has_a_page_with_its_exact_signatures(name: str) -> None:
    text = page(name)
    if os.environ.get("GPUMOD_UPDATE_SNAPSHOTS"):
        text = MARKED.sub(lambda _: f"<!-- the code says: -->\n{told(name)}<!-- until here -->", text)
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    (found,) = MARKED.findall(text)
    assert found == told(name)


def test_every_hook_and_every_record_has_its_page() -> None:
    assert {row[0] for row in HOOKS.values()} - {None} == set(checks.KINDS)
    assert {row[1] for row in HOOKS.values() if row[0]} == {kind.offer for kind in checks.KINDS.values()}


def test_the_overview_names_each_hook_with_its_exact_signature() -> None:
    shown = re.findall(r"^\| `(gpumod_\w+\(.*?\) -> .*?)` \|", page("README"), re.MULTILINE)
    specs = {name: spec for name, spec in vars(hookspecs).items() if hasattr(spec, "gpumod_spec")}
    assert shown == [signature(name, spec) for name, spec in specs.items()]
    assert set(re.findall(r"\]\(([a-z-]+)\.md\)", page("README"))) == {*HOOKS, "tutorial", "testing"}


def test_every_protocol_has_its_page() -> None:
    shown = {one for _, *classes in HOOKS.values() for one in classes}
    protocols = {getattr(api, name) for name in api.__all__ if getattr(getattr(api, name), "_is_protocol", False)}
    assert sorted(one.__name__ for one in protocols - shown) == []


def test_every_power_of_drivers_is_told() -> None:
    told_of = set(re.findall(r"^\| `(\w+)` \|", page("driver-powers"), re.MULTILINE))
    assert told_of == {shown.__name__ for shown in HOOKS["driver-powers"][1:] if getattr(shown, "_is_protocol", False)}


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """The first module of every page, loaded as a plugin."""
    monkeypatch.syspath_prepend(tmp_path)
    listed = []
    for name in ("tutorial", *HOOKS):
        for source in blocks(name, "python")[:1]:
            module = f"page_of_{name.replace('-', '_')}"
            (tmp_path / f"{module}.py").write_text(source)
            listed.append(Entry(name, module, f"acme-{name}", "1.0"))
    return load_plugins({}, listed)


def test_the_examples_load(plugins: Plugins) -> None:
    assert len(plugins.records) == 7
    assert [(record.error, record.problems) for record in plugins.records] == [(None, ())] * 7
    assert [len(record.offers) for record in plugins.records] == [1] * 7


def test_the_tutorial_begins_with_twelve_lines_that_estimate(plugins: Plugins) -> None:
    lines = [line for line in blocks("tutorial", "python")[0].splitlines() if line]
    assert len(lines) <= 12
    service = Service(id="chat", driver="vllm", model_id="acme/small")
    assert [estimate.vram_mb for estimate in plugins.estimate(service, 24564, None)] == [3700]
    assert plugins.estimate(service.model_copy(update={"model_id": "x"}), 24564, None) == ()


CHAT = Service(id="chat", driver="acme", port=8000, vram_mb=9000, model_path="/m", model_id="acme/small")


class TestTutorialsEstimator(EstimatorSuite):
    @pytest.fixture
    def case(self, plugins: Plugins) -> EstimatorCase:
        return EstimatorCase("acme", plugins.estimators.get("acme"), [CHAT])


class TestPagesDriver(DriverSuite):
    @pytest.fixture
    def case(self, plugins: Plugins) -> DriverCase:
        driver: Driver = plugins.drivers.get("acme")
        return DriverCase(driver, [CHAT])


class Napping:
    def __init__(self) -> None:
        self.naps = False

    def __call__(self, call: Call) -> Answer:
        if call.method == "POST":
            self.naps = call.path == "/nap"
        return 200, {"napping": self.naps}


class TestPagesSleep(SleepStrategySuite):
    @pytest.fixture
    def case(self, plugins: Plugins) -> SleepCase:
        service = CHAT.model_copy(update={"sleep_mode": "nap"})
        return SleepCase(plugins.sleep_strategies.get("acme", "nap"), service, Napping)


class TestPagesSource(ModelInfoSourceSuite):
    @pytest.fixture
    def case(self, plugins: Plugins, tmp_path: Path) -> ModelInfoCase:
        (tmp_path / "config.json").write_text('{"num_hidden_layers": 28, "hidden_size": 1024, "more": null}')
        service = CHAT.model_copy(update={"model_path": str(tmp_path)})
        return ModelInfoCase(plugins.info_sources.get("config-json"), [service])


def test_the_metadata_names_the_module_of_the_page() -> None:
    (small,) = map(tomllib.loads, blocks("tutorial", "toml"))
    (commands,) = map(tomllib.loads, blocks("README", "toml"))
    assert small["project"]["entry-points"] == {entries.PLUGINS_GROUP: {"acme": "acme_gpumod"}}
    assert list(commands["project"]["entry-points"]) == [entries.COMMANDS_GROUP]
    (console,) = blocks("tutorial", "console")
    assert f"{small['project']['name']} {small['project']['version']}" in console
    assert f"plugin API {offers.PLUGIN_API}" in console


def test_every_code_stands_there() -> None:
    table = set(
        re.findall(r"^\| `([a-z-]+)` \|", page("README").partition("## When a plugin is broken")[2], re.MULTILINE)
    )
    sources = "".join(inspect.getsource(module) for module in (checks, entries, loader, registry))
    assert table == set(re.findall(r'"(plugin-[a-z-]+|duplicate-offer)"', sources))


def test_both_variables_stand_there() -> None:
    for variable in (loader.ALLOW, loader.DENY):
        assert f"`{variable}`" in page("README")


def test_every_suite_is_told() -> None:
    import gpumod.testing

    rows = set(re.findall(r"^\| `(\w+Suite)` \|", page("testing"), re.MULTILINE))
    assert rows == {name for name in gpumod.testing.__all__ if name.endswith("Suite")}
    cases: Iterable[str] = re.findall(r"`(\w+Case)`", page("testing"))
    assert set(cases) == {name for name in gpumod.testing.__all__ if name.endswith("Case")}
