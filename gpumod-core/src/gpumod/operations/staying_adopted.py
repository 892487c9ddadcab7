"""What somebody else set up, and gpumod adopted, stays that in every document: `service release` alone lets it go."""

from __future__ import annotations

from gpumod.domain.errors import Failed
from gpumod.domain.service import Service


def refuse_unadopted(stored: Service | None, then: Service | None) -> None:
    """Raise Failed `adopted` where a document leaves an adopted service out (`then` is None), or makes it gpumod's own
    or something else that is somebody else's: what runs would be stopped, or known to nobody any more."""
    if stored is None or stored.adopted is None:
        return
    release = f"gpumod service release {stored.id}"
    if then is None:
        raise Failed(
            "adopted",
            f"service {stored.id!r} would be removed, and was adopted: it is somebody else's",
            hint=f"{release}, or name it in the document too",
        )
    if then.adopted != stored.adopted:
        said = stored.adopted.model_dump_json(exclude_defaults=True)
        becomes = f"stand for the {then.adopted}" if then.adopted else "be gpumod's own"
        raise Failed(
            "adopted",
            f"service {stored.id!r} would {becomes}, and was adopted from the {stored.adopted}",
            hint=f"{release}, or write in the document adopted: {said}",
        )
