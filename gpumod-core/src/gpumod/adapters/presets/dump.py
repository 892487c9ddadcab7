"""Writing presets: what is written loads again as the same value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from gpumod.adapters.presets.expand import escape_paths
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.service import Service

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def dump_service_preset(service: Service) -> str:
    """YAML of `service` with what differs from the defaults."""
    return to_yaml(service_keys(service))


def dump_mode_preset(mode: Mode) -> str:
    """YAML of `mode`."""
    return to_yaml({"kind": "mode", **mode_keys(mode)})


def service_keys(service: Service) -> dict[str, Any]:
    """What a file says of `service`: what differs from the defaults."""
    return escape_paths(service.model_dump(mode="json", exclude_defaults=True))


def mode_keys(mode: Mode) -> dict[str, Any]:
    """What a file says of `mode`."""
    head = mode.model_dump(mode="json", exclude_defaults=True, exclude={"members"})
    return {**head, "services": [_member(member) for member in mode.members]}


def _member(member: ModeMember) -> str | dict[str, Any]:
    said: dict[str, Any] = {}
    if member.want is Want.TIME_SHARED:
        said["sleep_on_idle"] = True
    elif member.want is Want.ASLEEP:
        said["asleep"] = True
    if member.start_order:
        said["start_order"] = member.start_order
    if member.idle_timeout is not None:
        said["idle_timeout"] = member.idle_timeout
    return {"id": member.service, **said} if said else member.service


def to_yaml(data: Mapping[str, Any]) -> str:
    """Keys in the order that they have."""
    return str(yaml.dump(data, Dumper=_NoAliases, sort_keys=False, allow_unicode=True, width=100))


class _NoAliases(_DUMPER):  # type: ignore[misc]  # its base is chosen at run time
    """Writes a value that stands in two places twice: aliases are not read."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True
