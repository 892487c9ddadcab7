"""Calling a stranger's code: its failures put in words, its prints kept out of our standard output."""

from __future__ import annotations

import contextlib
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import TextIO

from gpumod.domain.base import has_control_characters

MAX_REASON = 400


class _Diverted:
    """How many are at work in a stranger's code, and the stdout that waits for the last of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.stdout: TextIO | None = None


_DIVERTED = _Diverted()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Send what the code inside prints to stderr: stdout carries results only.

    Threads may be inside at the same time, and leave in any order: who came first does not find what is right later.
    """
    with _DIVERTED.lock:
        if _DIVERTED.inside == 0:
            _DIVERTED.stdout, sys.stdout = sys.stdout, sys.stderr
        _DIVERTED.inside += 1
    try:
        yield
    finally:
        with _DIVERTED.lock:
            _DIVERTED.inside -= 1
            if _DIVERTED.inside == 0:
                sys.stdout = _DIVERTED.stdout


def reason(exc: BaseException) -> str:
    """One clean line: class, text, and the file and line where it was raised. Never raises itself."""
    try:
        text = str(exc)
    except Exception as worse:  # noqa: BLE001  # a stranger's __str__
        text = f"its message cannot be shown ({type(worse).__name__})"
    where = traceback.extract_tb(exc.__traceback__)[-1:]
    # A frozen frame (<frozen importlib>) says nothing to a reader.
    places = [f" ({frame.filename}:{frame.lineno})" for frame in where if not frame.filename.startswith("<")]
    line = " ".join(f"{type(exc).__name__}: {text}".split())[:MAX_REASON].rstrip(": ")
    return "".join(c for c in line + "".join(places) if not has_control_characters(c))
