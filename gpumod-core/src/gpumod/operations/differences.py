"""What differs between two boxes, object by object and field by field. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from gpumod.domain.base import Frozen
from gpumod.domain.box import Box
from gpumod.domain.mode import Mode
from gpumod.domain.secret_names import is_secret_name
from gpumod.domain.secrets import hidden
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.operations.box_results import FieldChange, ObjectChange

T = TypeVar("T", Service, Mode)


def differences(now: Box, then: Box) -> tuple[ObjectChange, ...]:
    """The changes that lead from `now` to `then`: settings, services, modes, each by id."""
    return (
        *_settings(now.settings, then.settings),
        *_objects("service", now.services, then.services),
        *_objects("mode", now.modes, then.modes),
    )


def in_event(fields: Iterable[FieldChange]) -> dict[str, Any]:
    """Changes of fields as an event tells them."""
    return {f.field: {"old": f.old, "new": f.new} for f in fields}


def _settings(now: Mapping[str, str | None], then: Mapping[str, str | None]) -> Iterator[ObjectChange]:
    old, new = (Settings.model_validate(dict(texts)) for texts in (now, then))
    for key in Settings.model_fields:
        before, after = getattr(old, key), getattr(new, key)
        if before != after:
            yield ObjectChange(
                kind="setting", id=key, action="change", fields=(FieldChange(field=key, old=before, new=after),)
            )


def _objects(kind: Literal["service", "mode"], now: Mapping[str, T], then: Mapping[str, T]) -> Iterator[ObjectChange]:
    for name in sorted({*now, *then}):
        if name not in then:
            yield ObjectChange(kind=kind, id=name, action="remove")
        elif name not in now:
            yield ObjectChange(kind=kind, id=name, action="add", fields=tuple(fields_of(None, then[name])))
        elif now[name] != then[name]:
            yield ObjectChange(kind=kind, id=name, action="change", fields=tuple(fields_of(now[name], then[name])))


def fields_of(old: Service | Mode | None, new: Service | Mode) -> Iterator[FieldChange]:
    """What differs, options of the driver one by one, without their secrets."""
    before = _flat(old) if old else {}
    after = _flat(new, said=old is None)
    for field in dict.fromkeys([*after, *before]):
        old_one, new_one = before.get(field, _NONE), after.get(field, _NONE)
        if old_one[1] != new_one[1] and field != "id":
            yield FieldChange(field=field, old=_shown(old_one), new=_shown(new_one))


_One = tuple[str | None, Any]
"""What a field is called where it may be a secret (None: it is none), and its value."""
_NONE: _One = (None, None)


def _flat(value: Frozen, *, said: bool = False) -> dict[str, _One]:
    """Fields by name (only those that are `said`), options of the driver one by one."""
    out: dict[str, _One] = {}
    for field, item in value.model_dump(mode="json", exclude_defaults=said).items():
        if field == "unit_vars":
            for option, given in item.items():
                nested = given if isinstance(given, dict) and given and not is_secret_name(option) else None
                if nested:
                    out |= {f"unit_vars.{option}.{name}": (name, one) for name, one in nested.items()}
                else:
                    out[f"unit_vars.{option}"] = (option, given)
        else:
            out["services" if field == "members" else field] = (None, item)
    return out


def _shown(one: _One) -> Any:
    """A value without a secret in it."""
    name, value = one
    return value if name is None else hidden(value, name)
