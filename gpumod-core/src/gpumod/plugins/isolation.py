"""Calling a stranger's code: its failures put in words, its prints kept out of our standard output."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

from gpumod.domain.base import has_control_characters

MAX_REASON = 400


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Send what the code inside prints to stderr: stdout carries results only."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


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
