"""Number formats that services ask their cards for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from gpumod.domain.base import Frozen
from gpumod.domain.service import Service


class FormatNeed(Frozen):
    """`option` asks for `number_format` (`kv_cache_dtype=fp8`), `instead` is what to try on a card that does not
    compute in it, in words. `emulated`: the program may do it by other means there; else it ends, or computes badly."""

    number_format: Literal["bf16", "fp8"]
    option: str
    instead: str
    emulated: bool = False


@runtime_checkable
class NeedsFormats(Protocol):
    """A driver whose options ask for number formats. Pure; nothing for a service that lets its program choose."""

    def formats(self, service: Service) -> Sequence[FormatNeed]: ...
