"""What drivers share to read a command line that somebody else wrote."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from gpumod.domain.base import has_control_characters
from gpumod.plugins.kit import refuse_flags

SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash"})
CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
_META = frozenset("|<>$`&(){};\n")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


class _Wrapper(NamedTuple):
    """What stands between a wrapper's name and what it starts: options, of which `values` take the next word and `last`
    end them; a `verb`; and so many words of its `own`. An option that is not known is taken to have no value."""

    values: frozenset[str] = frozenset()
    verb: str = ""
    own: int = 0
    last: frozenset[str] = frozenset()


def _wrapper(values: str = "", verb: str = "", own: int = 0, last: str = "") -> _Wrapper:
    return _Wrapper(frozenset(values.split()), verb, own, frozenset(last.split()))


_PYTHON = _wrapper("-X -W --check-hash-based-pycs", last="-m")
_RUNS = _wrapper("-n --name -p --prefix --cwd --live-stream", verb="run")
_UV = (
    "-p --python --with --with-editable --with-requirements --project --directory --extra --group --env-file --package"
    " --index --index-url --extra-index-url --cache-dir --config-file --from"
)
WRAPPERS = {
    "env": _wrapper("-u --unset -C --chdir"),
    "nice": _wrapper("-n --adjustment"),
    "ionice": _wrapper("-c -n --class --classdata"),
    "chrt": _wrapper("-T -P -D", own=1),
    "numactl": _wrapper("-i -p -P -N -C -m -w --interleave --preferred --cpunodebind --physcpubind --membind"),
    "taskset": _wrapper(own=1),
    "timeout": _wrapper("-s -k --signal --kill-after", own=1),
    "stdbuf": _wrapper("-i -o -e --input --output --error"),
    "sudo": _wrapper("-u -g -h -p -C -D -R -T -r -t -U --user --group --chdir"),
    "doas": _wrapper("-u -C"),
    "runuser": _wrapper("-u -g -G --user --group"),
    "setpriv": _wrapper("--reuid --regid --groups --inh-caps --ambient-caps --bounding-set"),
    "systemd-cat": _wrapper("-t -p --identifier --priority"),
    "exec": _wrapper("-a"),
    **dict.fromkeys(("nohup", "setsid", "time", "command", "tini", "dumb-init"), _wrapper()),
    **dict.fromkeys(SHELLS, _wrapper("-o +o")),
    "uv": _wrapper(_UV, verb="run", last="-m --module"),
    "uvx": _wrapper(_UV),
    **dict.fromkeys(("conda", "mamba", "micromamba"), _RUNS),
    **dict.fromkeys(("poetry", "pipenv", "pdm", "rye"), _wrapper("-C --directory -p --project", verb="run")),
    "pixi": _wrapper("-e --environment --manifest-path", verb="run"),
}
"""Programs that start another one and are it afterwards, or wait for it: what they start is what counts."""


class Flag(NamedTuple):
    """What a flag means: the field it sets, and the kind of its value. A `switch` has none."""

    field: str
    kind: Literal["text", "int", "float", "switch"] = "text"


def words_from(argv: Sequence[str], program: str) -> tuple[str, ...] | None:
    """The words of `argv` from `program` (by the last part of a path, or a module that Python is to run) on.

    Known wrappers before it, and a shell's -c, are passed over. None where something else is started, which may well
    name it (`tmux new -s PROGRAM`), or where it is inside a container.
    """
    words = tuple(argv)
    while words and _ASSIGNMENT.match(words[0]):
        words = words[1:]
    if not words or PurePosixPath(words[0]).name == program:
        return words or None
    name = PurePosixPath(words[0]).name
    if name in SHELLS and len(words) > 2 and words[1].startswith("-") and "c" in words[1]:
        return words_from(_last_command(words[2]), program)
    wrapper = _PYTHON if re.fullmatch(r"python[0-9.]*", name) else WRAPPERS.get(name)
    return words_from(_behind(words[1:], wrapper), program) if wrapper else None


def _behind(words: Sequence[str], wrapper: _Wrapper) -> Sequence[str]:
    """What a wrapper starts: `words` without its own. None of them where it does something else."""
    own, verb = wrapper.own, wrapper.verb
    left = list(words)
    while left:
        word = left.pop(0)
        if word in wrapper.values:
            left = left[1:]
        elif word in wrapper.last:
            return left
        elif word.startswith(("-", "+")) or _ASSIGNMENT.match(word):
            continue
        elif verb:
            if word != verb:
                return ()
            verb = ""
        elif own:
            own -= 1
        else:
            return (word, *left)
    return ()


def _last_command(text: str) -> Sequence[str]:
    """The last of the commands that `&&` and `;` join, if it is a plain one."""
    last = text.replace("&&", ";").rstrip("; \n").rpartition(";")[2]
    try:
        return () if _META & set(last) else shlex.split(last)
    except ValueError:
        return ()


def read_flags(words: Sequence[str], known: Mapping[str, Flag]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The values of the `known` flags by field, and all other words as they stand. The last of a flag wins.

    `--flag value`, `--flag=value` and `_` for `-` are understood. A value of another kind stays among the words.
    """
    found: dict[str, Any] = {}
    rest: list[str] = []
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, given = word.partition("=")
        flag = known.get(name.replace("_", "-") if name.startswith("--") else name)
        if flag is None or not word.startswith("-"):
            rest.append(word)
        elif flag.kind == "switch":
            found[flag.field] = True
        elif not equals and not waiting:
            rest.append(word)
        else:
            text = given if equals else waiting.pop(0)
            value = _value(text, flag.kind)
            if value is None:
                rest += [word] if equals else [word, text]
            else:
                found[flag.field] = value
    return found, tuple(rest)


def _value(text: str, kind: str) -> str | int | float | None:
    if kind == "text":
        return text
    try:
        return int(text) if kind == "int" else float(text)
    except ValueError:
        return None


def keep_flags(
    words: Sequence[str], denied: Sequence[str], *, abbreviations: bool = False, whole: Collection[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the words those that may stand in `extra_args`, and the flags that were left out with their values; as
    :func:`refuse_flags`."""
    kept: list[str] = []
    dropped: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("-") and not word[1:2].isdigit():
            try:
                refuse_flags([word], denied, abbreviations=abbreviations, whole=whole)
                dropping = False
            except ValueError:
                dropping = True
                dropped.append(word.partition("=")[0])
        if not dropping and has_control_characters(word):
            dropping = True
            if kept and kept[-1].startswith("-"):
                dropped.append(kept.pop())
        if not dropping:
            kept.append(word)
    return tuple(kept), tuple(dict.fromkeys(dropped))


def gpus_in(env: Mapping[str, str]) -> tuple[int, ...] | None:
    """The GPUs that CUDA_VISIBLE_DEVICES names by index; None where it does not."""
    words = [word.strip() for word in env.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return tuple(map(int, words)) if words and all(word.isdigit() for word in words) else None
