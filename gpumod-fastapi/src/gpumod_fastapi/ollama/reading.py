"""Reading a command line that starts an Ollama: the inverse of the driver's `launch`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from gpumod.api import CommandLine, Told, words_from

PROGRAM = "ollama"
PORT = 11434
HEALTH = "/api/version"
NUMBERS = {"OLLAMA_CONTEXT_LENGTH": "context_length", "OLLAMA_NUM_PARALLEL": "num_parallel"}
_PLACE = re.compile(r"(?:https?://)?(?P<host>\[[0-9a-fA-F:]*\]|[^:/\s]*)(?::(?P<port>[0-9]{1,5}))?/?")


def read_command(command: CommandLine) -> Told | None:
    """The fields of a service that would be started so; None where it is no `ollama serve`."""
    words = words_from(command.argv, PROGRAM)
    if words is None or words[1:] != ("serve",):
        return None
    place = _PLACE.fullmatch(command.env.get("OLLAMA_HOST", "").strip())
    port = int(place["port"]) if place and place["port"] else PORT
    options: dict[str, Any] = {"ollama_bin": words[0]} if PurePosixPath(words[0]).is_absolute() else {}
    options |= _options(command.env)
    fields = {"port": port if 1 <= port <= 65535 else PORT, "health_endpoint": HEALTH, "unit_vars": options}
    note = "the models that it loads are counted as its own, but for those that are services with it as their host"
    return Told(fields=fields, notes=(note,), binds=place["host"].strip("[]") if place else "")


def _options(env: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if env.get("OLLAMA_MODELS", "").startswith("/"):
        found["models_dir"] = env["OLLAMA_MODELS"]
    for variable, option in NUMBERS.items():
        if env.get(variable, "").isdigit() and int(env[variable]) > 0:
            found[option] = int(env[variable])
    return found
