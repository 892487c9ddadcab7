"""`gpumod plugins new` writes a distribution that works as it is, and `gpumod plugins check` says so."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpumod.cli.main import root
from tests.thirdparty.sites import lay_out, run

FILES = ["README.md", "pyproject.toml", "src/gpumod_acme_two.py", "tests/test_gpumod_acme_two.py"]


def gpumod(home: Path, *args: str) -> tuple[int, Any]:
    done = CliRunner().invoke(root, ["--home", str(home), "--json", *args])
    return done.exit_code, json.loads(done.stdout)


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    return home


@pytest.fixture(name="project")
def _project(home: Path, tmp_path: Path) -> Path:
    code, written = gpumod(home, "plugins", "new", "acme-two", "--folder", str(tmp_path))
    assert code == 0, written
    assert written["files"] == FILES
    return Path(written["folder"])


@pytest.mark.slow
def test_what_is_written_passes_untouched(project: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    lay_out(project, site)
    done = run(site, "pytest", "-q", "-p", "no:cacheprovider", str(project), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_what_is_written_is_found_and_checked(project: Path, home: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    lay_out(project, site)
    done = run(site, "gpumod", "--home", str(home), "plugins", "check", "acme-two", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (suite,) = json.loads(done.stdout)["suites"]
    assert (suite["kind"], suite["distribution"], suite["examples"]) == ("driver", "gpumod-acme-two", ["example"])
    assert {test["outcome"] for test in suite["tests"]} == {"passed"}

    module = site / "gpumod_acme_two.py"
    module.write_text(module.read_text().replace("settings.bind_host", '"0.0.0.0"'))
    done = run(site, "gpumod", "--home", str(home), "plugins", "check", "acme-two", "--json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    (suite,) = json.loads(done.stdout)["suites"]
    failed = {test["test"]: test["why"] for test in suite["tests"] if test["outcome"] == "failed"}
    assert set(failed) == {"test_launch_stays_on_this_machine"}
    assert "opens it to the network" in failed["test_launch_stays_on_this_machine"]

    taken = run(site, "gpumod", "--home", str(home), "plugins", "new", "acme-two", "--json", cwd=tmp_path / "site")
    assert (taken.returncode, json.loads(taken.stdout)["error"]["code"]) == (2, "name-taken")


def test_nothing_is_overwritten_and_nothing_is_left_half(project: Path, home: Path, tmp_path: Path) -> None:
    before = {path: path.read_text() for path in project.rglob("*") if path.is_file()}
    names = sorted(path.name for path in tmp_path.iterdir())
    for args, code in (
        (("acme-two", "--folder", str(tmp_path)), "exists"),
        (("other", "--folder", str(tmp_path / "no-such")), "no-such-folder"),
        (("other", "--folder", "/proc"), "cannot-write"),
    ):
        exit_code, refused = gpumod(home, "plugins", "new", *args)
        assert refused["error"]["code"] == code
        assert exit_code == (1 if code == "cannot-write" else 2)
    assert {path: path.read_text() for path in project.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert project.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    "name", ["", "Acme", "a_b", "../x", "a--b", "-a", "1a", "a" * 41, "a\nb", "é", "a/b", "a$b", "gpumod-a"]
)
def test_names_that_could_be_no_module_are_refused(home: Path, tmp_path: Path, name: str) -> None:
    code, refused = gpumod(home, "plugins", "new", "--folder", str(tmp_path), "--", name)
    assert (code, refused["error"]["code"]) == (2, "bad-input")
    assert [path for path in tmp_path.iterdir() if path != home] == []


def test_a_name_of_ours_is_taken_also_where_it_is_not_installed(home: Path, tmp_path: Path) -> None:
    for name in ("core", "presets", "sim", "vllm", "llamacpp", "fastapi", "docker", "mcp", "tui", "ollama"):
        code, refused = gpumod(home, "plugins", "new", name, "--folder", str(tmp_path))
        assert (code, refused["error"]["code"]) == (2, "name-taken"), name
    assert [path for path in tmp_path.iterdir() if path != home] == []


@pytest.mark.slow
def test_the_name_of_a_distribution_that_offers_nothing_is_taken(home: Path, tmp_path: Path) -> None:
    info = tmp_path / "gpumod_acme_tools-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gpumod-acme-tools\nVersion: 1.0\n")
    done = run(tmp_path, "gpumod", "--home", str(home), "plugins", "new", "acme-tools", "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "name-taken")
    assert "gpumod-acme-tools" in error["why"]


def test_every_name_gives_python_that_can_be_read(home: Path, tmp_path: Path) -> None:
    for name in ("a", "x9", "class", "import-all", "true-false-none"):
        _, written = gpumod(home, "plugins", "new", name, "--folder", str(tmp_path))
        for file in written["files"]:
            text = Path(written["folder"], file).read_text()
            assert "$" not in text
            if file.endswith(".py"):
                ast.parse(text)


@pytest.mark.parametrize(
    ("name", "exit_code", "code"),
    [("no-such", 4, "unknown-offer"), ("sim", 2, "nothing-to-check"), ("adopted-user", 2, "nothing-to-check")],
)
def test_what_cannot_be_checked_is_told(home: Path, name: str, exit_code: int, code: str) -> None:
    found, refused = gpumod(home, "plugins", "check", name)
    assert (found, refused["error"]["code"]) == (exit_code, code)


def test_why_a_plugin_offers_nothing_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUMOD_PLUGINS", "core,sim,ghost")
    code, refused = gpumod(home, "plugins", "check", "ghost")
    assert (code, refused["error"]["code"]) == (1, "plugin-not-installed")


def test_a_suite_without_an_example_asks_for_one(home: Path) -> None:
    code, refused = gpumod(home, "plugins", "check", "l2")
    assert (code, refused["error"]["code"]) == (2, "no-example")
    assert "--preset FILE" in refused["error"]["hint"]


@pytest.mark.slow
def test_the_named_presets_are_the_examples(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "asr.yaml"
    file.write_text(
        "id: asr\ndriver: fastapi\nport: 8000\nvram_mb: 500\nsleep_mode: http\n"
        "unit_vars: {command: serve, sleep_path: /sleep, wake_path: /wake}\n"
    )
    code, verdict = gpumod(home, "plugins", "check", "http", "--preset", str(file))
    assert code == 0, verdict
    assert [suite["examples"] for suite in verdict["suites"]] == [["asr"]]


@pytest.mark.slow
def test_a_supervisor_is_checked_with_real_processes(home: Path) -> None:
    code, verdict = gpumod(home, "plugins", "check", "process")
    assert code == 0, verdict
    (suite,) = verdict["suites"]
    assert len(suite["tests"]) > 40


def test_without_pytest_it_says_what_to_install(home: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['pytest'] = None  # 'there is none'\n")
    done = run(tmp_path, "gpumod", "--home", str(home), "plugins", "check", "process", "--json", cwd=tmp_path)
    assert done.returncode == 9, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["hint"]) == ("no-pytest", 'pip install "gpumod-core[testing]"')


def test_the_suites_say_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['hypothesis'] = None  # 'there is none'\n")
    done = run(tmp_path, "gpumod.testing.check", cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: gpumod\'s suites need hypothesis: pip install "gpumod-core[testing]"'
    )
