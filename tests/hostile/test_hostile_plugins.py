"""Plugins that are kept out or broken: what is missing is named with how to get it, and everything else works."""

import os
from pathlib import Path

import pytest

READS = (("service", "list"), ("mode", "list"), ("settings", "list"), ("plugins",), ("history", "list"), ("--version",))
BROKEN = {
    "acme_import": "import a_module_that_is_not_there\n",
    "acme_syntax": "def f(:\n",
    "acme_exit": "raise SystemExit(3)\n",
    "acme_prints": "print('hello')\nimport sys\nsys.stderr.write('hello')\n",
    "acme_api": "GPUMOD_PLUGIN_API = 99\n",
    "acme_escape": "raise RuntimeError('\\x1b[31m[red]\\nred[/red]')\n",
}


def test_without_any_plugin_reads_work_and_the_rest_says_what_is_missing(home):
    none = {"GPUMOD_PLUGINS": ""}
    for args in READS:
        home.ask(*args, code=0, env=none)
    for args in (("status",), ("switch", "blank"), ("simulate", "--mode", "code")):
        done = home.ask(*args, code=4, env=none)
        assert done.error["code"] == "unknown-gpu-probe"
        assert "GPUMOD_PLUGINS" in done.error["hint"]
    home.ask("doctor", code=1, env=none)
    before = home.services()
    home.ask("preset", "load", env=none)
    assert home.services() == before


def test_a_driver_that_is_kept_out_is_named_before_anything_happens(home):
    without = {"GPUMOD_DISABLE_PLUGINS": "vllm"}
    for args in (
        ("switch", "code"), ("switch", "rag"), ("switch", "code", "--dry-run"), ("service", "start", "embedding"),
        ("service", "edit", "embedding", "--name", "x"),
    ):  # fmt: skip
        done = home.ask(*args, code=4, env=without)
        assert done.error["code"] == "unknown-driver", args
        assert "GPUMOD_DISABLE_PLUGINS" in done.error["hint"], args
    notes = home.ask("simulate", "--mode", "code", env=without).json["notes"]
    assert any("embedding-code could not be started here: its driver vllm is not there" in note for note in notes)
    home.ask("switch", "blank", code=0, env=without)
    home.ask("status", code=0, env=without)
    home.ask("preset", "load", code=0, env=without)
    assert home.ask("doctor", code=1, env=without).json["checks"]
    assert home.ask("history", "list").json["runs"][0]["mode"] == "blank"


def test_a_driver_that_nobody_offers_says_which_is_near(home):
    home.sql("UPDATE services SET driver='dockr' WHERE id='embedding-code'")
    done = home.ask("switch", "code", code=4)
    assert "did you mean docker?" in done.error["hint"]
    assert home.ask("status", code=0).json["mode"] is None


def test_names_in_the_lists_that_are_nobodys(home):
    for env in (
        {"GPUMOD_DISABLE_PLUGINS": "../x,nope,,"},
        {"GPUMOD_DISABLE_PLUGINS": "a\nb"},
        {"GPUMOD_PLUGINS": "nope"},
    ):
        home.ask("service", "list", code=0, env=env)
        home.ask("plugins", env=env)


@pytest.mark.slow
def test_broken_plugins_disturb_no_command(home, tmp_path: Path):
    site = tmp_path / "site"
    site.mkdir()
    for name, source in BROKEN.items():
        (site / f"{name}.py").write_text(source)
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[gpumod]\n{name} = {name}\n[gpumod.commands]\n{name} = {name}:cli\n")
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    env = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    for args in (("--json", "simulate", "--mode", "code"), ("--json", "switch", "blank")):
        home.process(*args, code=0, env=env).json  # noqa: B018  # that it is one document is the point
    plugins = home.process("--json", "plugins", code=0, env=env).json["plugins"]
    broken = {row["distribution"]: row["error"] or row["problems"] for row in plugins}
    for name in set(BROKEN) - {"acme_prints"}:
        assert broken[name.replace("_", "-") if name not in broken else name], name
    for args in (("plugins",), ("doctor",), ("--help",)):
        assert home.process(*args, env=env).stdout
    assert home.process("--json", "acme_import", env=env).error["message"]
