"""Secrets of the world's services, in memory."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.testing.world import World


class WorldSecrets:
    """Implements :class:`gpumod.ports.secrets.Secrets`; every gpumod of one world sees the same."""

    def __init__(self, world: World) -> None:
        self._kept = world.secrets

    def names(self, service: str) -> tuple[str, ...]:
        return tuple(sorted(self.values(service)))

    def values(self, service: str) -> Mapping[str, str]:
        return self._kept.get(service, {})

    def put(self, service: str, name: str, value: str | None) -> None:
        values = {key: old for key, old in self.values(service).items() if key != name}
        self._kept[service] = values if value is None else {**values, name: value}

    def forget(self, service: str) -> None:
        self._kept.pop(service, None)
