"""Broken distributions of strangers, found by the real import machinery: none stops the others, each is named."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

DRIVER = """
from gpumod.api import DriverOffer, hookimpl

def make():
    {make}

def offer(name, **other):
    return DriverOffer(**{{"name": name, "summary": "of " + name, "factory": make, **other}})

@hookimpl
def gpumod_drivers():
    {body}
"""


def driver(name: str, *, make: str = "raise NotImplementedError", body: str = "return [offer({name!r})]") -> str:
    return DRIVER.format(make=make, body=body.format(name=name))


SUPERVISOR = """
from gpumod.api import SupervisorOffer, hookimpl

@hookimpl
def gpumod_supervisors():
    return [SupervisorOffer(name="process", summary="mine", factory=print)]
"""

# distribution -> (entry point, module source)
DISTRIBUTIONS = {
    "acme-good": ("acme", driver("acme", make="return 'a driver'")),
    "acme-import": ("broken-import", "import a_module_that_is_not_there"),
    "acme-syntax": ("broken-syntax", "def f(:\n"),
    "acme-exit": ("broken-exit", "raise SystemExit(3)"),
    "acme-print": ("prints", "print('hello from a stranger')\n" + driver("printing")),
    "acme-hook": ("broken-hook", driver("never") + "\n@hookimpl\ndef gpumod_driver():\n    return []\n"),
    "acme-args": (
        "broken-args",
        "from gpumod.api import hookimpl\n@hookimpl\ndef gpumod_presets(home):\n    return []\n",
    ),
    "acme-unmarked": ("broken-unmarked", "def gpumod_drivers():\n    return []\n"),
    "acme-wrapper": (
        "broken-wrapper",
        "from gpumod.api import hookimpl\n@hookimpl(wrapper=True)\ndef gpumod_drivers():\n    return (yield)\n",
    ),
    "acme-api": ("broken-api", "GPUMOD_PLUGIN_API = 99\n" + driver("from-the-future")),
    "acme-offer-api": ("old-offer", driver("", body="return [offer('old', api=0), offer('new')]")),
    "acme-raises": ("broken-raises", driver("half", body="yield offer({name!r})\n    raise OSError('no\\nsuch luck')")),
    "acme-nothing": ("broken-none", driver("none", body="return None")),
    "acme-type": ("odd-offers", driver("typed", body="return ['x', offer('../x'), offer({name!r}, factory=3)]")),
    "acme-factory": ("broken-factory", driver("explodes", make="raise OSError('no such library')")),
    "acme-factory-exit": ("exit-factory", driver("exits", make="raise SystemExit('go away')")),
    "acme-one": ("one", driver("twice")),
    "acme-two": ("two", driver("twice")),
    "acme-shadow": ("shadow", SUPERVISOR),
}  # fmt: skip

SCRIPT = """
import json, sys
from gpumod.domain.errors import GpumodError
from gpumod.plugins.entries import list_commands, load_command
from gpumod.plugins.loader import load_plugins

plugins = load_plugins()
gets = {}
for name in ("acme", "printing", "explodes", "exits", "twice", "old", "new", "half", "never", "broken-hook"):
    try:
        gets[name] = {"made": plugins.drivers.offer(name).bare()}
    except GpumodError as exc:
        gets[name] = {"type": type(exc).__name__, **exc.info.model_dump(mode="json")}
commands = {}
for name in ("hi", "broken", "gone", "text", "both"):
    try:
        commands[name] = {"made": load_command(name).name}
    except GpumodError as exc:
        commands[name] = {"type": type(exc).__name__, **exc.info.model_dump(mode="json")}
print(json.dumps({
    "records": [record.model_dump(mode="json") for record in plugins.records],
    "drivers": plugins.drivers.names(),
    "process": plugins.supervisors.offer("process").distribution,
    "gets": gets,
    "listed": list_commands(),
    "commands": commands,
}))
"""


def install(site: Path, distribution: str, entry_points: str, modules: dict[str, str], version: str = "1.2.3") -> None:
    """Lay a distribution out as an installer does."""
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n\nVersion: of the text\n"
    )
    (info / "entry_points.txt").write_text(textwrap.dedent(entry_points))
    for module, source in modules.items():
        (site / f"{module}.py").write_text(source)


def run(site: Path, script: str, **environ: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("GPUMOD_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**env, "PYTHONPATH": str(site), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    for distribution, (entry, source) in DISTRIBUTIONS.items():
        module = distribution.replace("-", "_")
        install(site, distribution, f"[gpumod]\n{entry} = {module}\n", {module: source})
    (site / "no_metadata-0.1.dist-info").mkdir()
    (site / "no_metadata-0.1.dist-info" / "entry_points.txt").write_text("[gpumod]\nnameless = acme_nameless\n")
    commands = "import click\n@click.command()\ndef hi(): ...\ntext = 'text'\n"
    install(
        site,
        "acme-commands",
        "[gpumod.commands]\nhi = acme_cmd:hi\nbroken = acme_cmd:gone\ntext = acme_cmd:text\nboth = acme_cmd:hi\n",
        {"acme_cmd": commands},
    )
    install(site, "acme-more-commands", "[gpumod.commands]\nboth = acme_cmd:hi\n", {})
    return site


@pytest.fixture(scope="module")
def result(site):
    """What one process that loads them all sees. Its output is one JSON document, whatever plugins print."""
    return json.loads(run(site, SCRIPT))


@pytest.fixture(scope="module")
def records(result):
    return {record["distribution"]: record for record in result["records"]}


def test_the_good_ones_work_beside_the_broken_ones(result, records):
    assert records["gpumod-core"]["error"] is None
    assert result["gets"]["acme"] == {"made": "a driver"}
    assert records["acme-good"]["offers"] == [{"kind": "driver", "name": "acme", "summary": "of acme"}]
    assert records["acme-good"]["hooks"] == ["gpumod_drivers"]
    assert "printing" in result["drivers"]


@pytest.mark.parametrize(
    ("distribution", "code", "why"),
    [
        ("acme-import", "plugin-import-failed", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("acme-syntax", "plugin-import-failed", "SyntaxError"),
        ("acme-exit", "plugin-import-failed", "SystemExit: 3"),
        ("acme-hook", "plugin-unknown-hook", "it implements gpumod_driver, and there is no such hook"),
        ("acme-args", "plugin-bad-hook", "Argument(s) {'home'} are declared in the hookimpl"),
        ("acme-unmarked", "plugin-bad-hook", "gpumod_drivers is not marked with @hookimpl"),
        ("acme-wrapper", "plugin-bad-hook", "is a hook wrapper"),
        ("acme-api", "plugin-api-mismatch", "it wants plugin API 99; this gpumod has 1"),
        ("acme-raises", "plugin-hook-raised", "OSError: no such luck"),
        ("acme-nothing", "plugin-hook-raised", "TypeError: 'NoneType' object is not iterable"),
        ("no_metadata-0.1.dist-info", "plugin-import-failed", "No module named 'acme_nameless'"),
    ],
)
def test_a_broken_plugin_is_named_with_its_distribution_version_and_reason(records, distribution, code, why):
    record = records[distribution]
    assert record["error"]["code"] == code
    assert why in record["error"]["why"]
    assert record["offers"] == []
    assert record["version"] == ("1.2.3" if distribution in DISTRIBUTIONS else "")
    assert repr(record["name"]) in record["error"]["message"]
    assert distribution in record["error"]["message"]
    assert "\n" not in record["error"]["why"]
    assert record["error"]["hint"]


def test_a_garbled_entry_point_file_harms_only_its_own_distribution(tmp_path):
    install(tmp_path, "acme-garbled", "[gpumod]\nthis line names nothing\n", {})
    # pydantic looks for plugins of its own at import, and falls over any such file in the environment.
    records = json.loads(run(tmp_path, NAMES, PYDANTIC_DISABLE_PLUGINS="__all__", GPUMOD_PLUGINS=""))
    assert ["core", "", ""] in records
    assert ["", "", "plugin-metadata-broken"] in records


def test_a_failed_plugin_offers_nothing_at_all(result):
    assert set(result["drivers"]).isdisjoint({"never", "half", "from-the-future", "typed", "old"})


def test_single_offers_are_refused_and_named(records):
    old = records["acme-offer-api"]
    assert old["error"] is None
    assert [offer["name"] for offer in old["offers"]] == ["new"]
    (problem,) = old["problems"]
    assert problem["code"] == "plugin-api-mismatch"
    assert "'old'" in problem["message"]
    assert [problem["code"] for problem in records["acme-type"]["problems"]] == ["plugin-bad-offer"] * 3


def test_two_offers_of_one_name_are_nobodys(result, records):
    assert "twice" not in result["drivers"]
    error = result["gets"]["twice"]
    assert (error["type"], error["code"]) == ("UsageError", "duplicate-offer")
    assert "acme-one 1.2.3" in error["message"]
    assert "acme-two 1.2.3" in error["message"]
    assert sorted(error["details"]["distributions"]) == ["acme-one", "acme-two"]
    for distribution in ("acme-one", "acme-two"):
        assert [problem["code"] for problem in records[distribution]["problems"]] == ["duplicate-offer"]


def test_the_cores_own_is_never_shadowed(result, records):
    assert result["process"] == "gpumod-core"
    assert records["gpumod-core"]["problems"] == []
    (problem,) = records["acme-shadow"]["problems"]
    assert problem["why"] == "gpumod's own is used"


@pytest.mark.parametrize(
    ("name", "distribution", "why"),
    [("explodes", "acme-factory", "OSError: no such library"), ("exits", "acme-factory-exit", "SystemExit: go away")],
)
def test_a_factory_that_raises_names_its_distribution(result, name, distribution, why):
    error = result["gets"][name]
    assert (error["type"], error["code"]) == ("Failed", "plugin-broken")
    assert error["details"]["distribution"] == distribution
    assert error["why"].startswith(why)


def test_the_name_of_a_broken_plugin_tells_why_it_is_not_there(result):
    error = result["gets"]["broken-hook"]
    assert error["code"] == "unknown-driver"
    assert "acme-hook 1.2.3 was not loaded: it implements gpumod_driver" in error["hint"]


def test_commands_are_listed_without_loading_and_loaded_one_by_one(result):
    assert result["listed"]["hi"] == ["acme-commands"]
    assert sorted(result["listed"]["both"]) == ["acme-commands", "acme-more-commands"]
    assert result["commands"]["hi"] == {"made": "hi"}
    codes = {name: result["commands"][name]["code"] for name in ("broken", "gone", "text", "both")}
    assert codes == {
        "broken": "plugin-broken",
        "gone": "unknown-command",
        "text": "plugin-broken",
        "both": "duplicate-offer",
    }


def test_listing_commands_imports_nothing_heavy(site):
    script = """
import sys
from gpumod.plugins.entries import list_commands
assert "hi" in list_commands()
heavy = {"pydantic", "click", "pluggy", "sqlmodel", "httpx", "rich", "jinja2", "acme_cmd", "acme_good"}
print(sorted(heavy & set(sys.modules)))
"""
    assert run(site, script).strip() == "[]"


NAMES = """
import json
from gpumod.plugins.loader import load_plugins
print(json.dumps([[r.name, r.disabled, r.error.code if r.error else ""] for r in load_plugins().records]))
"""


@pytest.mark.parametrize(
    ("environ", "loaded"),
    [
        ({"GPUMOD_PLUGINS": ""}, {"core"}),
        ({"GPUMOD_PLUGINS": "acme, prints"}, {"core", "acme", "prints"}),
        ({"GPUMOD_PLUGINS": "acme,prints", "GPUMOD_DISABLE_PLUGINS": "prints,core"}, {"core", "acme"}),
    ],
)
def test_allow_and_deny(site, environ, loaded):
    records = json.loads(run(site, NAMES, **environ))
    assert {name for name, disabled, error in records if not disabled and not error} == loaded
    for name, disabled, _ in records:
        assert disabled in ("", "GPUMOD_PLUGINS", "GPUMOD_DISABLE_PLUGINS"), name


def test_an_allowed_plugin_that_is_not_installed_is_named(site):
    records = json.loads(run(site, NAMES, GPUMOD_PLUGINS="acmee"))
    assert ["acmee", "", "plugin-not-installed"] in records
