"""Stable ids: short hashes of content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from gpumod.domain.plan import Changes, Step, Target
from gpumod.planner.world import World


def short_hash(content: Any) -> str:
    """Ten hex digits of the content's canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def plan_id(world: World, steps: Iterable[Step], members: Iterable[str]) -> str:
    """Derived from what the steps do and from the definitions concerned, not from readings, times or order."""
    acts = sorted([step.action.value, step.service, step.level or "", list(step.placed_on)] for step in steps)
    concerned = sorted({str(act[1]) for act in acts} | set(members))
    found = {service: definition for service in concerned if (definition := world.find(service))}
    return short_hash([acts, {service: definition.model_dump(mode="json") for service, definition in found.items()}])


def alternative_id(target: Target, changes: Changes) -> str:
    """Derived from the target that did not fit and from what is changed, not from what runs or from words."""
    asked = target.model_copy(update={"restart": ()})
    left_out: Any = {"alternative": True, "altered": True, "members": {"__all__": {"why"}}}
    return short_hash([asked.model_dump(mode="json", exclude=left_out), changes.model_dump(mode="json")])
