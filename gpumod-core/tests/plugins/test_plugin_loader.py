"""The loader over entries given by hand, and the core's own plugin."""

from pathlib import Path

import pytest

from gpumod.domain.settings import Settings
from gpumod.plugins.checks import KINDS
from gpumod.plugins.entries import Entry, find_entries
from gpumod.plugins.isolation import MAX_REASON, reason
from gpumod.plugins.loader import load_plugins

CORE = Entry("core", "gpumod.plugins.core", "gpumod-core", "0.1.0")
PRESETS = """
from pathlib import Path
from gpumod.api import PresetsOffer, SleepStrategyOffer, TemplatesOffer, hookimpl

@hookimpl
def gpumod_presets():
    yield PresetsOffer(name={name!r}, summary="", folder=Path("/nowhere"))

@hookimpl(specname="gpumod_templates")
def mine():
    return (TemplatesOffer(name="same", summary="", folder=Path({name!r})),)

@hookimpl(optionalhook=True)
def gpumod_of_the_future():
    return []

@hookimpl
def gpumod_sleep_strategies():
    return [SleepStrategyOffer(name="l1", summary="", drivers=("acme", {name!r}), factory=object)]
"""


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """Write a module and return its entry."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, source: str) -> Entry:
        module = f"loader_test_{tmp_path.name.replace('-', '_')}_{name}"
        (tmp_path / f"{module}.py").write_text(source)
        return Entry(name, module, f"dist-{name}", "1.0")

    return make


def test_the_core_offers_its_parts_through_the_same_hooks():
    assert any(entry[:3] == CORE[:3] for entry in find_entries("gpumod"))
    plugins = load_plugins({}, [CORE])
    (record,) = plugins.records
    assert (record.error, record.problems) == (None, ())
    assert "process" in plugins.supervisors.names()


def test_nothing_is_offered_where_nothing_is_loaded():
    plugins = load_plugins({}, [])
    assert (plugins.records, plugins.drivers.names(), plugins.presets) == ((), (), ())


def test_every_hook_has_its_kind():
    from gpumod.plugins import hookspecs

    assert set(KINDS) == {name for name in vars(hookspecs) if name.startswith("gpumod_")}


def test_folders_specnames_optional_hooks_and_levels_by_driver(entry):
    plugins = load_plugins({}, [entry("a", PRESETS.format(name="a"))])
    assert [offer.name for offer in plugins.presets] == ["a"]
    assert [offer.folder for offer in plugins.templates] == [Path("a")]
    assert plugins.sleep_strategies.levels("acme") == ("l1",)
    assert plugins.records[0].hooks == ("gpumod_presets", "gpumod_sleep_strategies", "gpumod_templates")


def test_what_clashes_is_nobodys_and_the_rest_stays(entry):
    plugins = load_plugins({}, [entry("a", PRESETS.format(name="a")), entry("b", PRESETS.format(name="b"))])
    assert [offer.name for offer in plugins.presets] == ["a", "b"]
    assert plugins.templates == ()
    assert plugins.sleep_strategies.levels("acme") == ()
    assert plugins.sleep_strategies.levels("a") == ("l1",)
    for record in plugins.records:
        assert record.error is None
        assert {problem.code for problem in record.problems} == {"duplicate-offer"}
        assert len(record.problems) == 2


def test_two_entries_of_one_name_are_two_plugins(entry):
    first = entry("a", PRESETS.format(name="a"))
    second = entry("b", PRESETS.format(name="b"))._replace(name="a")
    assert [offer.name for offer in load_plugins({}, [first, second]).presets] == ["a", "b"]


def test_one_module_registered_twice_is_told(entry):
    first = entry("a", PRESETS.format(name="a"))
    records = load_plugins({}, [first, first._replace(distribution="a-copy")]).records
    assert [record.error is None for record in records] == [True, False]


def test_an_entry_that_is_denied_is_not_imported(entry):
    plugins = load_plugins({"GPUMOD_DISABLE_PLUGINS": " b , a"}, [entry("a", "raise SystemExit"), CORE])
    assert [(record.name, record.disabled, record.error) for record in plugins.records] == [
        ("a", "GPUMOD_DISABLE_PLUGINS", None),
        ("core", "", None),
    ]


def test_an_interrupt_is_not_a_broken_plugin(entry):
    with pytest.raises(KeyboardInterrupt):
        load_plugins({}, [entry("a", "raise KeyboardInterrupt")])


def test_what_a_plugin_prints_does_not_reach_standard_output(entry, capsys):
    load_plugins({}, [entry("a", "print('loud')\n")])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "loud\n")


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    ("exc", "said"),
    [
        (OSError("two\nlines \x1b[31m"), "OSError: two lines [31m"),
        (KeyError(), "KeyError"),
        (Mute(), "Mute: its message cannot be shown (ValueError)"),
    ],
)
def test_a_reason_is_one_clean_line(exc, said):
    assert reason(exc) == said


def test_a_reason_names_the_line_and_is_short():
    try:
        raise ValueError("x" * 5000)
    except ValueError as exc:
        said = reason(exc)
    assert f"({__file__}:" in said
    assert len(said) < MAX_REASON + len(__file__) + 20


def test_settings_of_the_supervisor_reach_its_factory(tmp_path):
    from gpumod.adapters.clock import SystemClock

    plugins = load_plugins({}, [CORE])
    supervisor = plugins.supervisors.get("process", tmp_path, "home-1", Settings(), SystemClock())
    assert supervisor.name == "process"
