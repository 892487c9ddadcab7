"""What nobody hopes for: odd answers of servers, odd values of options, words that look like something else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from gpumod.ports import HttpReply
from gpumod.testing.web import Answer

BODIES: tuple[Any, ...] = (
    b"", "null", "true", "[]", "{}", '"text"', "1e999", "NaN", '{"status": ', b"\xff\xfe\x00", "[" * 3000, "x" * 99_000,
    "<html><body>502 Bad Gateway</body></html>", {"status": None}, {"status": "ok"}, {"sleeping": "yes"},
    {"is_sleeping": 1}, {"data": None}, {"data": [None, 7, {"id": 5}, {"id": "m", "status": "loaded"}]}, {"models": 7},
    {"error": {"message": None}},
)  # fmt: skip
ODD_ANSWERS: tuple[Answer, ...] = (
    *((200, body) for body in BODIES),
    *((status, {"error": "no"}) for status in (201, 302, 400, 401, 404, 405, 429, 500, 502, 504)),
    (503, "Loading model"),
    (503, b""),
)
"""What a server that is not what it should be may say: another program on the port, a proxy, a newer version."""


def reply(answer: Answer) -> HttpReply:
    """An odd answer as the HTTP client hands it on."""
    status, body = answer
    if isinstance(body, bytes):
        return HttpReply(status=status, text=body.decode("utf-8", "replace"))
    if isinstance(body, str):
        return HttpReply(status=status, text=body)
    return HttpReply(status=status, text=json.dumps(body), json_body=body)


class SameAnswer:
    """HTTP that gives one answer to everything, at once. `methods` are those that it was asked by."""

    def __init__(self, answer: Answer) -> None:
        self._reply = reply(answer)
        self.methods: list[str] = []

    async def request(
        self,
        method: str,
        port: int,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        json_body: Any = None,
        timeout_s: float = 2.0,
    ) -> HttpReply:
        self.methods.append(method)
        return self._reply


TEXTS = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
"""A value as a preset or `--set` may give it."""

CANARY = "canary"
ONE_WORD = f"{CANARY} a;$(id) \"b\" 'c' `d` $HOME %n \\e"
"""A text that a shell, a unit file or a split at blanks would change."""
FLAG_LIKE = ("--uds=/tmp/x", "-x")
SECRET = "s3cr3t-canary"  # noqa: S105 - it is looked for, and opens nothing
EVERYWHERE = ("0.0.0.0", "::", "[::]", "*")  # noqa: S104 - it is looked for
