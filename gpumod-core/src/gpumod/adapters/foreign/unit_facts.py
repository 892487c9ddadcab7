"""Units that gpumod did not write, as their manager tells of them: one question for all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from gpumod.adapters.systemd import states
from gpumod.adapters.systemd.manager import Answer, Manager, Properties, refused
from gpumod.domain.adopted import MANAGERS, OWN, UNIT_PATTERN
from gpumod.ports.commands import CommandLine
from gpumod.ports.foreign import UnitFacts

ASKED = (
    *("LoadState", "ActiveState", "MainPID", "ControlGroup", "ExecStart", "Environment", "EnvironmentFiles"),
    "WorkingDirectory",
)
_ARGV = re.compile(r"argv\[\]=(.*?) ; ignore_errors=")
_NAMED = re.compile(r"\$\$|\$\{(\w+)\}")


def names(manager: Manager) -> tuple[str, ...]:
    """Every service unit, loaded or not, but for templates, users' managers and gpumod's own."""
    found: set[str] = set()
    for verb in (("list-unit-files", "--type=service"), ("list-units", "--all", "--type=service")):
        answer = _call(manager, *verb, "--plain", "--no-legend")
        found |= {line.split()[0] for line in answer.out.splitlines() if line.split()}
    good = (name for name in found if re.fullmatch(UNIT_PATTERN[1:-1], name) and "@." not in name)
    return tuple(sorted(name for name in good if not name.startswith((MANAGERS, *OWN))))


def facts(manager: Manager, units: Sequence[str]) -> tuple[UnitFacts, ...]:
    """Those of `units` that are there, by their own names (an alias is told as what it stands for)."""
    if not units:
        return ()
    asked = ",".join(("Id", "FragmentPath", *ASKED))
    answer = _call(manager, "show", "--property", asked, "--", *units)
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in answer.out.split("\n\n")]
    found = {block["Id"]: block for block in blocks if block.get("LoadState") == "loaded"}
    return tuple(_facts(manager, block) for block in found.values() if re.fullmatch(UNIT_PATTERN[1:-1], block["Id"]))


def _call(manager: Manager, *words: str) -> Answer:
    scope = ["--user"] if manager.scope == "user" else []
    answer = manager.run(["systemctl", *scope, "--no-ask-password", "--no-pager", *words])
    if answer.code:
        raise refused(manager.scope, "cannot be asked", answer)
    return answer


def _facts(manager: Manager, shown: Properties) -> UnitFacts:
    active = states.is_active(shown)
    match = _ARGV.search(shown.get("ExecStart", ""))
    pairs = (word.partition("=") for word in _words(shown.get("Environment", "")))
    env = {name: value for name, equals, value in pairs if equals}
    unseen_env = bool(shown.get("EnvironmentFiles"))
    return UnitFacts(
        name=shown["Id"],
        manager=manager.scope,
        command=CommandLine(
            argv=_filled(_words(match[1] if match else ""), {} if unseen_env else env),
            env=env,
            cwd=shown.get("WorkingDirectory", "").lstrip("!-"),
        ),
        active=active,
        main_pid=states.number(shown, "MainPID") or None,
        pids=states.pids_of(shown) if active else (),
        file=shown.get("FragmentPath", ""),
        unseen_env=unseen_env,
    )


def _filled(words: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """`words` with the variables that the unit itself sets, as systemd fills them in: `$NAME` alone is several words,
    `${NAME}` a part of one. What comes from elsewhere (EnvironmentFile=) stays as it is written."""
    filled: list[str] = []
    for word in words:
        alone = re.fullmatch(r"\$(\w+)", word)
        if alone and alone[1] in env:
            filled += _words(env[alone[1]])
        else:
            filled.append(_NAMED.sub(lambda named: env.get(named[1], named[0]) if named[1] else "$", word))
    return tuple(filled)


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return tuple(text.split())
