"""Loading a preset again over a service that the user may have edited since."""

from __future__ import annotations

from gpumod.domain.service import Service


def merge_for_reload(
    old: Service | None, new: Service, user_edited: frozenset[str], update: bool
) -> tuple[Service, tuple[str, ...]]:
    """The service to store, and the fields in which the user's word was kept, sorted.

    `old` is what is stored, `new` what the preset says, `user_edited` the fields that the user changed. With
    `update` the preset wins everywhere. Raises ValidationError where the two cannot be put together.
    """
    if old is None or update:
        return new, ()
    kept = tuple(sorted(field for field in user_edited if field in Service.model_fields and field != "id"))
    merged = {**dict(new), **{field: getattr(old, field) for field in kept}}
    return Service.model_validate(merged), kept
