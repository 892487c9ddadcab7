"""Secrets of services: values that a service gets in its environment, and that nobody else is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Secrets(Protocol):
    """Variables by service, kept apart from definitions: no export, no event and no plan ever holds a value.

    `values` is for the start of a service alone. `put` with None removes one, `forget` all of a service.
    """

    def names(self, service: str) -> tuple[str, ...]: ...
    def values(self, service: str) -> Mapping[str, str]: ...
    def put(self, service: str, name: str, value: str | None) -> None: ...
    def forget(self, service: str) -> None: ...
