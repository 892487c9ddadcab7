"""The documentation speaks of what is there: links lead somewhere, names of modules and verbs exist."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("news/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
DOTTED = re.compile(r"`(gpumod(?:_[a-z]+)?(?:\.[A-Za-z_][A-Za-z0-9_]*)+)`")
SERVICE = re.compile(r"gpumod (?:--home \S+ )?service (?:secret )?(?:edit|logs|unit|set|list|remove)\s+([a-z][\w-]*)")
VERB = re.compile(r"nox -s ([a-z-]+)")


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target in LINK.findall(page.read_text()):
        name = target.split("#")[0]
        if name and "://" not in name and not name.startswith("mailto:") and not (page.parent / name).exists():
            lost.append(target)
    assert not lost


def exists(dotted: str) -> bool:
    """Whether a dotted name leads to a module, or to something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            thing: object = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as lacking:
            if lacking.name is None or not dotted.startswith(lacking.name):
                raise
            continue
        return all(hasattr(thing, name) and (thing := getattr(thing, name)) is not None for name in parts[cut:])
    return False


# Entry-point groups look like module names and are not.
GROUPS = {"gpumod.commands"}
LABELS = {"gpumod.home", "gpumod.service", "gpumod.nonce", "gpumod.definition"}
"""Of containers."""


@pytest.mark.parametrize("page", [page for page in PAGES if ROOT / "docs" in page.parents], ids=ids)
def test_names_of_our_modules_exist(page: Path) -> None:
    named = set(DOTTED.findall(page.read_text())) - GROUPS - LABELS
    # A command that is written `gpumod.service` and the like is a file's name, not a module's.
    files = {name for name in named if name.endswith((".j2", ".service", ".toml", ".db"))}
    assert not sorted(name for name in named - files if not exists(name))


def load_toml(example: Example) -> None:
    tomllib.loads(example.parsed)


def load_yaml(example: Example) -> None:
    yaml.safe_load(example.parsed)


PARSERS = (PythonCodeBlockParser(), CodeBlockParser("toml", load_toml), CodeBlockParser("yaml", load_yaml))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_examples_run(page: Path) -> None:
    """Python in the documentation runs, from the top of the page down; TOML and YAML can be read."""
    for example in Document.parse(str(page), *PARSERS).examples():
        example.evaluate()


def test_verbs_exist() -> None:
    verbs = set(re.findall(r"^def ([a-z_]+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE))
    verbs = {verb.replace("_", "-") for verb in verbs if not verb.startswith("_")}
    for page in PAGES:
        assert not set(VERB.findall(page.read_text())) - verbs, page


def test_examples_with_units_are_of_services_that_have_one() -> None:
    """Members of a host have no process of their own: no unit, no journal, no secrets."""
    files = (ROOT / "presets" / "src").glob("gpumod_presets/*/*.yaml")
    presets = {preset["id"]: preset for preset in (yaml.safe_load(file.read_text()) for file in files)}
    named = set(SERVICE.findall((ROOT / "docs" / "systemd.md").read_text()))
    assert named
    assert [service for service in named if "port" not in presets.get(service, {})] == []


def test_ci_runs_every_default_rung() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for rung in ("tests", "lint", "types", "imports", "demo", "systemd", "docker", "llamacpp", "packages"):
        at_once = re.search(rf"^rung {rung} ", script, re.MULTILINE)
        beside_others = re.search(rf"^run {rung} .*&$", script, re.MULTILINE)
        assert at_once or (beside_others and re.search(rf"^told {rung}$", script, re.MULTILINE)), rung


def test_an_engine_that_is_not_there_does_not_pass() -> None:
    """Its tests skip themselves; that all of them did would be a session that passed, where CI counts skipped ones."""
    body = (ROOT / "noxfile.py").read_text().split("def docker(", 1)[1].split("@nox.session", 1)[0]
    assert body.index("lacking()") < body.index("session.skip(") < body.index("_pytest(session")
