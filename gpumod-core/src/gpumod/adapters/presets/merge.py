"""Loading a preset again over a service that the user may have edited since."""

from __future__ import annotations

from pydantic import ValidationError

from gpumod.domain.service import Service


def merge_for_reload(
    old: Service | None, new: Service, user_edited: frozenset[str], update: bool
) -> tuple[Service, tuple[str, ...]]:
    """The service to store, and the fields in which the user's word was kept, sorted.

    `old` is what is stored, `new` what the preset says, `user_edited` the fields that the user changed. With
    `update` the preset wins everywhere, but over what was adopted, which stays as it is. Where the user's fields
    contradict the preset's others (a peak below the preset's new `vram_mb`), everything stays as it is stored.
    """
    if old is not None and old.adopted and old.adopted != new.adopted:
        return old, ("adopted",)
    if old is None or update:
        return new, ()
    kept = tuple(sorted(f for f in user_edited if f in Service.model_fields and getattr(old, f) != getattr(new, f)))
    merged = {**dict(new), **{field: getattr(old, field) for field in kept}}
    try:
        return Service.model_validate(merged), kept
    except ValidationError:
        return old, tuple(sorted(field for field in Service.model_fields if getattr(old, field) != getattr(new, field)))
