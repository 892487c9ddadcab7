"""What tests/gpu/app.py calls of torch, over the stand-in of CUDA's driver library that is found under its name."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.append(str(Path(__file__).parents[2] / "gpu"))
from cuda import MIB, Cuda

__version__ = "2.0+standin"
version = SimpleNamespace(cuda="13.0")
uint8 = "uint8"
_contexts: list[Cuda] = []


def _context() -> Cuda:
    if not _contexts:
        _contexts.append(Cuda())
    return _contexts[0]


def _is_available() -> bool:
    try:
        _context()
    except OSError:
        return False
    return True


class Tensor:
    """Memory that stays cached when nobody holds it, until the cache is emptied."""

    def __init__(self, mb: int) -> None:
        _context().take(mb)


def ones(*sizes: int, dtype: str, device: str) -> Tensor | bytearray:
    assert dtype == uint8
    size = 1
    for one in sizes:
        size *= one
    return Tensor(size // MIB) if device == "cuda" else bytearray(size)


def _empty_cache() -> None:
    _context().give_back()


cuda = SimpleNamespace(is_available=_is_available, synchronize=lambda: None, empty_cache=_empty_cache)
