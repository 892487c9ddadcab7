"""From the built wheels alone, in an empty environment, the meta distribution gives a working `gpumod`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.packaging, pytest.mark.timeout(600)]
NAMES = (
    "gpumod",
    "gpumod_core",
    "gpumod_docker",
    "gpumod_fastapi",
    "gpumod_llamacpp",
    "gpumod_presets",
    "gpumod_sim",
    "gpumod_vllm",
)


@pytest.fixture(scope="module")
def wheels() -> Path:
    folder = os.environ.get("GPUMOD_WHEELS")
    if not folder:
        pytest.skip("GPUMOD_WHEELS is not set: `nox -s packages` builds the wheels and sets it")
    return Path(folder)


@pytest.fixture(scope="module")
def uv() -> str:
    return shutil.which("uv") or pytest.skip("uv is not on the path")


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.fixture(scope="module")
def empty_environment(wheels: Path, uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment into which only the meta distribution was asked for, with three extras."""
    folder = tmp_path_factory.mktemp("meta") / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    ours = ["--constraints", str(wheels / "ours.txt")]
    install = [uv, "pip", "install", "--quiet", "--python", str(folder), *ours, "gpumod[vllm,llamacpp,sim]"]
    subprocess.run(install, check=True)
    return folder / "bin"


def say(program: Path, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, env=environment, timeout=180
    )


@pytest.mark.parametrize("name", NAMES)
def test_wheel_and_sdist_are_built(wheels: Path, name: str) -> None:
    with zipfile.ZipFile(one(wheels, f"{name}-[0-9]*.whl")) as wheel:
        files = wheel.namelist()
    assert any(file.endswith(".dist-info/licenses/LICENSE") for file in files)
    code = [file for file in files if ".dist-info/" not in file]
    if name == "gpumod":
        assert code == [], "the meta wheel only depends on the others"
    else:
        package = "gpumod" if name == "gpumod_core" else name
        assert f"{package}/py.typed" in code
        assert {file.split("/")[0] for file in code} <= {package, "gpumod_pytest.py"}
        ours = [file for file in code if not file.endswith(".tmpl")]  # `gpumod plugins new` writes tests, too
        assert not [file for file in ours if "/tests/" in file or "__pycache__" in file]
    with tarfile.open(one(wheels, f"{name}-[0-9]*.tar.gz")) as sdist:
        members = {member.partition("/")[2] for member in sdist.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO"} <= members


def test_wheels_carry_their_data(wheels: Path) -> None:
    with zipfile.ZipFile(one(wheels, "gpumod_presets-*.whl")) as wheel:
        assert [file for file in wheel.namelist() if file.endswith(".yaml")]
    with zipfile.ZipFile(one(wheels, "gpumod_core-*.whl")) as wheel:
        assert [file for file in wheel.namelist() if "/migrations/" in file or "/versions/" in file]


def test_version(empty_environment: Path, tmp_path: Path) -> None:
    done = say(empty_environment / "gpumod", "--version", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("gpumod")


def test_plugins_are_all_well(empty_environment: Path, tmp_path: Path) -> None:
    done = say(empty_environment / "gpumod", "plugins", "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    text = json.dumps(json.loads(done.stdout))
    for name in ("core", "llamacpp", "presets", "sim", "vllm"):
        assert f'"{name}"' in text
    assert "gpumod-fastapi" not in text, "not asked for, not installed"


@pytest.fixture(scope="module")
def authors_environment(wheels: Path, uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment of somebody who writes a plugin: the core with its test tools, and nothing else of ours."""
    folder = tmp_path_factory.mktemp("author") / "venv"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    install_into(folder, uv, wheels, "gpumod-core[testing]")
    return folder


def install_into(venv: Path, uv: str, wheels: Path, *what: str) -> None:
    ours = ["--constraints", str(wheels / "ours.txt")]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", str(venv), *ours, *what], check=True)


def test_a_new_plugin_passes_untouched(authors_environment: Path, wheels: Path, uv: str, tmp_path: Path) -> None:
    """`gpumod plugins new acme && pip install ./gpumod-acme && pytest gpumod-acme`, and then the kit by its name."""
    made = say(authors_environment / "bin/gpumod", "plugins", "new", "acme", "--folder", str(tmp_path), home=tmp_path)
    assert made.returncode == 0, made.stderr
    passes(authors_environment, wheels, uv, tmp_path / "gpumod-acme", "acme", tmp_path)


def test_the_example_of_a_third_party_passes(authors_environment: Path, wheels: Path, uv: str, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "gpumod-sglang"
    copy = Path(shutil.copytree(example, tmp_path / "gpumod-sglang"))  # building leaves things behind
    file = tmp_path / "chat.yaml"
    file.write_text("id: chat\ndriver: sglang\nport: 30000\nvram_mb: 20000\nmodel_id: org/model\n")
    passes(authors_environment, wheels, uv, copy, "sglang", tmp_path, "--preset", str(file))


def passes(venv: Path, wheels: Path, uv: str, project: Path, name: str, home: Path, *more: str) -> None:
    install_into(venv, uv, wheels, str(project))
    tested = say(venv / "bin/pytest", "-q", "-p", "no:cacheprovider", str(project), home=home)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    checked = say(venv / "bin/gpumod", "plugins", "check", name, "--json", *more, home=home)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (suite,) = json.loads(checked.stdout)["suites"]
    assert suite["distribution"] == f"gpumod-{name}"
    assert {test["outcome"] for test in suite["tests"]} == {"passed"}


def test_it_plans(empty_environment: Path, tmp_path: Path) -> None:
    """A simulated home, the presets, and a plan: the whole chain of distributions."""
    program = empty_environment / "gpumod"
    made = say(program, "init", "--sim", "NVIDIA GeForce RTX 4090:24564", "--yes", "--json", home=tmp_path)
    assert made.returncode == 0, made.stdout + made.stderr
    done = say(program, "simulate", "--mode", "code", "--json", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["verdict"] == "fits"
