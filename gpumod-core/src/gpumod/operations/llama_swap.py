"""A llama-swap configuration, read as its documentation says: models with their macros filled in. Pure.

Macros are `${NAME}` and `${env.NAME}`; those of a model win over global ones, and each may use others. `${PORT}` counts
up from startPort over the models that use it, by name; `${MODEL_ID}` is the model's name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import PurePosixPath
from typing import Any

from gpumod.domain.errors import UsageError

START_PORT = 5800
HEALTH_TIMEOUT_S, LEAST_TIMEOUT_S = 120.0, 15.0
MOST = 100_000
"""So many characters may macros put into one text: more is no command line that a kernel takes."""
PORT = "${PORT}"
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*=")
_TENSORS = ("-ot", "-otd")
"""Options of llama-server whose value looks like a variable."""
_MACRO = re.compile(r"\$\{([A-Za-z0-9_.-]+)\}")
_PROXY_PORT = re.compile(r"https?://(?:localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0)(?::([0-9]+))?(?:/|$)")
PROXYS_OWN = ("aliases", "useModelName", "filters", "concurrencyLimit", "unlisted", "metadata", "timeouts", "cmdStop")
"""Keys of the proxy, which have no meaning for a service by itself."""


@dataclass(frozen=True)
class SwapModel:
    """One model: its command, where it answers (None: as its command says), and what cannot be carried (`notes`).

    `counted`: its `port` was counted for ${PORT}, so another would do. `problem`: why it is no service.
    """

    name: str
    title: str = ""
    words: tuple[str, ...] = ()
    env: Mapping[str, str] | None = None
    port: int | None = None
    counted: bool = False
    health: str | None = None
    timeout_s: float = HEALTH_TIMEOUT_S
    notes: tuple[str, ...] = ()
    problem: str = ""

    def at(self, port: int | None) -> tuple[str, ...]:
        """Its command on `port`."""
        return tuple(word.replace(PORT, str(port)) for word in self.words)


def models_of(config: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[SwapModel, ...]:
    """Every model, by name. Raises UsageError `bad-file` where there are none."""
    models = config.get("models")
    if not isinstance(models, Mapping) or not models:
        raise UsageError("bad-file", "it names no models", why="a llama-swap configuration has a mapping `models`")
    macros = config.get("macros")
    shared = dict(macros) if isinstance(macros, Mapping) else {}
    port = config.get("startPort")
    port = port if isinstance(port, int) else START_PORT
    timeout = config.get("healthCheckTimeout")
    timeout_s = max(LEAST_TIMEOUT_S, float(timeout)) if isinstance(timeout, int | float) else HEALTH_TIMEOUT_S
    out = []
    for name, said in sorted(((str(key), said) for key, said in models.items()), key=lambda model: model[0]):
        model = _model(name, said, shared, port, timeout_s, environ) if isinstance(said, Mapping) else _bad(name)
        port += model.counted
        out.append(model)
    return tuple(out)


def _without_env(words: tuple[str, ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Of `env NAME=VALUE ... PROGRAM ...` the variables and the rest; options of env's own are left to who reads it."""
    if not words or PurePosixPath(words[0]).name != "env":
        return {}, words
    given = tuple(takewhile(lambda word: "=" in word and not word.startswith("-"), words[1:]))
    rest = words[1 + len(given) :]
    if not rest or rest[0].startswith("-"):
        return {}, words
    return dict(word.split("=", 1) for word in given), rest


def _not_carried(words: Sequence[str]) -> tuple[str, ...]:
    """A note of the variables that something else than `env` alone, before the program, would set."""
    plain = ["", *(part for word in words for part in word.split())]  # a shell's command is one word
    before = takewhile(lambda pair: not pair[1].startswith("--"), pairwise(plain))
    found = [word.partition("=")[0] for last, word in before if _VARIABLE.match(word) and last not in _TENSORS]
    return (f"left out before the command: {', '.join(found)}",) if found else ()


def _bad(name: str) -> SwapModel:
    return SwapModel(name=name, problem="it is no mapping")


def _model(
    name: str,
    said: Mapping[str, Any],
    shared: Mapping[str, Any],
    port: int,
    timeout_s: float,
    environ: Mapping[str, str],
) -> SwapModel:
    own = said.get("macros")
    macros = {**shared, **(own if isinstance(own, Mapping) else {}), "MODEL_ID": name}
    raw = {"cmd": said.get("cmd"), "proxy": said.get("proxy"), "check": said.get("checkEndpoint")}
    try:
        title = _text(said.get("name"))
        texts = {key: _filled(_text(value), macros, environ) for key, value in raw.items()}
        env = _environment(said.get("env"), macros, environ)
        given, words = _without_env(tuple(shlex.split("\n".join(_lines(texts["cmd"])))))
    except ValueError as error:
        return SwapModel(name=name, problem=f"its command cannot be read: {error}")
    counted = PORT in texts["cmd"]
    proxy = _PROXY_PORT.match(texts["proxy"].replace(PORT, str(port)))
    problem = "" if words else "it has no cmd"
    if texts["proxy"] and not proxy:
        problem = problem or f"it serves at {texts['proxy']!r:.80}, which is not this machine"
    return SwapModel(
        name=name,
        title=title,
        words=words,
        env={**env, **given},
        port=int(proxy[1] or 80) if proxy else port if counted else None,
        counted=counted,
        health=texts["check"] if texts["check"].startswith("/") else None,
        timeout_s=timeout_s,
        notes=(*_notes(said), *_not_carried(words)),
        problem=problem,
    )


def _filled(text: str, macros: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """`text` with all macros but ${PORT} filled in. Raises ValueError where one is not there, or they never end."""
    filled = 0

    def value(match: re.Match[str]) -> str:
        nonlocal filled
        found = named(match)
        filled += len(found)
        if filled > MOST:
            raise ValueError(f"its macros make more than {MOST} characters")
        return found

    def named(match: re.Match[str]) -> str:
        name = match[1]
        if name == "PORT":
            return match[0]
        if name.startswith("env."):
            if name[4:] not in environ:
                raise ValueError(f"the variable {name[4:]} is not set here")
            return environ[name[4:]]
        if name not in macros:
            raise ValueError(f"the macro {name} is not defined")
        return _text(macros[name]).strip()

    for _ in range(len(macros) + 2):
        after = _MACRO.sub(value, text)
        if after == text:
            return text
        text = after
    raise ValueError("its macros go round in a circle")


def _text(value: Any) -> str:
    """A plain value as text. Raises ValueError for others: YAML's aliases can make them endless."""
    if isinstance(value, list | Mapping):
        raise ValueError("a list or a mapping stands where a text should")  # noqa: TRY004 - the file's fault
    return "" if value is None else str(value)


def _lines(text: str) -> list[str]:
    """The lines of a command without comments, and without the backslashes that join them."""
    lines = [line.strip() for line in text.splitlines()]
    return [line.removesuffix("\\") for line in lines if not line.startswith("#")]


def _environment(said: Any, macros: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    pairs = (_text(item).partition("=") for item in said) if isinstance(said, list) else ()
    return {name: _filled(value, macros, environ) for name, equals, value in pairs if equals}


def _notes(said: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [f"left out, for it is the proxy's own: {', '.join(left)}"] if (left := _given(said)) else []
    ttl = said.get("ttl")
    if isinstance(ttl, int) and ttl > 0:
        notes.append(f"ttl {ttl} is not carried: nothing is stopped for being idle")
    return tuple(notes)


def _given(said: Mapping[str, Any]) -> list[str]:
    return [key for key in PROXYS_OWN if said.get(key)]
