"""Reading any command line of an HTTP service: its port, and the command as it stands."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from gpumod.api import CommandLine, Told, gpus_in

FLAGS = ("--port", "-p", "--http-port", "--server-port")
HOSTS = ("--host", "-h", "--hostname", "--server-name")
PLACES = ("--bind", "-b", "--listen", "--listen-address", "--address")
_PORT = re.compile(r"(?:^|:)([0-9]{1,5})$")
_ADDRESS = re.compile(r"localhost|[0-9]+(?:\.[0-9]+){3}|[0-9a-fA-F:]*::[0-9a-fA-F:]*")


def read_command(command: CommandLine) -> Told | None:
    """The fields of a service that would be started so. Any command may be an HTTP service: nothing is sure of it."""
    if not command.argv or any("\n" in word for word in command.argv):
        return None
    port, words = _with_port(command.argv)
    fields: dict[str, Any] = {}
    if port is None and command.env.get("PORT", "").isdigit():
        port = int(command.env["PORT"])
    if port is not None and 1 <= port <= 65535:
        fields["port"] = port
    if visible := gpus_in(command.env):
        fields["gpus"] = visible
    options: dict[str, Any] = {"command": list(words)}
    if PurePosixPath(command.cwd).is_absolute() and command.cwd != "/":
        options["cwd"] = command.cwd
    return Told(fields={**fields, "unit_vars": options}, sure=False, binds=_address(command))


def _address(command: CommandLine) -> str:
    """The address that the command says by a flag; empty where it says none."""
    words = [part for word in command.argv for part in (word.split("=", 1) if word.startswith("-") else [word])]
    said = [after for before, after in pairwise(words) if before in (*HOSTS, *PLACES)]
    found = [_PORT.sub("", place.removeprefix("http://")).strip("[]") for place in said]
    return next((place for place in found if _ADDRESS.fullmatch(place)), "")


def _with_port(argv: tuple[str, ...]) -> tuple[int | None, tuple[str, ...]]:
    """The port that the command says, and its words with {port} in its place."""
    out: list[str] = []
    port: int | None = None
    before = ""
    for word in argv:
        name, equals, given = word.partition("=")
        flag, value = (name, given) if equals else (before, word)
        match = _PORT.search(value) if flag in (*FLAGS, *PLACES) else None
        if match and (flag in PLACES or match.start() == 0) and port in (None, int(match[1])):
            port = int(match[1])
            word = word[: len(word) - len(match[1])] + "{port}"  # noqa: PLW2901 - the same word, filled in later
        out.append(word)
        before = "" if equals else word
    return port, tuple(out)
