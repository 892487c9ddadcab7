"""Candidates for an alternative: single changes to a target that did not fit, with what they cost the user.

Costs rank; they have no unit. A cost of 1 is hardly noticed, one above 10 takes something away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from gpumod.domain.footprint import Footprint, Source
from gpumod.domain.mode import Want
from gpumod.domain.plan import AlternativeKind, Changes, Target, Variant
from gpumod.domain.service import Service
from gpumod.planner.changes import context_delta_mb, with_needs

BLOCK = 1024
"""Contexts are offered in multiples of this."""
MIN_CONTEXT = 2048
MOST_SHARERS = 8
"""So many of the largest members are tried as partners in turns."""

FootprintOf = Callable[[Service], Footprint]
"""What a definition takes; pure as far as the planner sees."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One change. `context_of` names the service whose largest fitting context is still to be found.

    `saves_mb` is what it saves at most; where that is less than what is missing, it is not worth a plan.
    """

    kind: AlternativeKind
    title: str
    changes: Changes
    cost: float
    touches: frozenset[str]
    saves_mb: int
    context_of: str | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """What did not fit. `crowded` are the services on GPUs that are over: others cannot help.

    `stored` are the definitions that an edited service restarts with, where they are not those of `services`;
    `footprint_of` tells what an edited one takes, where somebody can.
    """

    target: Target
    services: Mapping[str, Service]
    footprints: Mapping[str, Footprint]
    variants: Mapping[str, tuple[Variant, ...]]
    crowded: frozenset[str]
    stored: Mapping[str, Service] = field(default_factory=dict)
    footprint_of: FootprintOf | None = None

    def foot(self, service: str) -> Footprint:
        known = self.footprints.get(service)
        mb = self.services[service].vram_mb
        return known or Footprint(service=service, vram_mb=mb, start_peak_mb=self.services[service].start_peak_mb or mb)

    def all(self) -> list[Candidate]:
        """Every single candidate, cheapest first."""
        found = [*time_shares(self), *contexts(self), *by_variants(self), *replacements(self), *left_out(self)]
        return sorted(found, key=lambda candidate: (candidate.cost, candidate.title))


def time_shares(base: Base) -> Iterator[Candidate]:
    """Members that take turns: pairs of those that are awake, or one more where a mode takes turns already."""
    members = base.target.members
    shared = [member.service for member in members if member.want is Want.TIME_SHARED]
    awake = [member.service for member in members if member.want is Want.AWAKE and member.service in base.crowded]
    needed = {need for member in members for need in base.services[member.service].needs}
    awake = [service for service in awake if base.services[service].supports_sleep or service not in needed]
    awake.sort(key=lambda service: (-base.foot(service).vram_mb, service))
    groups: list[tuple[str, ...]] = [*combinations(awake[:MOST_SHARERS], 2)]
    if shared:
        groups = [(service,) for service in awake[:MOST_SHARERS]]
    if len(awake) > 2:
        groups.append(tuple(awake))
    for group in groups:
        cost = sum(_turn_cost(base, service) for service in group)
        slow = [service for service in group if not base.services[service].supports_sleep]
        how = f" ({_join(slow)} by being stopped)" if slow else ""
        names = _join([*sorted(shared), *group])
        changes = Changes(time_share=tuple(sorted(group)))
        saves_mb = sum(base.foot(service).start_peak_mb for service in group)
        title, touches = f"{names} take turns{how}", frozenset(group)
        yield Candidate(AlternativeKind.TIME_SHARE, title, changes, 1 + cost, touches, saves_mb)


def _turn_cost(base: Base, service: str) -> float:
    """A turn costs what waking costs; being stopped costs a whole start."""
    foot = base.foot(service)
    sleeps = base.services[service].supports_sleep
    wait_s = (foot.wake_s if foot.wake_s is not None else 4.0) if sleeps else (foot.start_s or 30.0)
    return 0.5 + min(3.0, wait_s / 20)


def contexts(base: Base) -> Iterator[Candidate]:
    """Members whose memory falls with their context: not those whose options decide what they take."""
    for service in sorted(base.crowded):
        definition = base.services[service]
        if definition.adopted or not definition.context_size or not definition.kv_cache_per_1k:
            continue
        if definition.context_size <= MIN_CONTEXT or base.foot(service).source is Source.EXPLICIT:
            continue
        saves_mb = -context_delta_mb(definition, MIN_CONTEXT)
        touches = frozenset((service,))
        yield Candidate(AlternativeKind.CONTEXT, "", Changes(), 2.0, touches, saves_mb, context_of=service)


def by_variants(base: Base) -> Iterator[Candidate]:
    """What the drivers offer: a smaller KV type, CPU offload."""
    for service in sorted(base.crowded):
        if base.services[service].adopted:  # whoever set it up says its options
            continue
        for variant in base.variants.get(service, ()):
            vram_mb = max(0, base.foot(service).vram_mb - variant.saves_mb)
            changes = Changes(unit_vars={service: variant.unit_vars}, vram_mb={service: vram_mb})
            title, touches = f"{service}: {variant.title}", frozenset((service,))
            yield Candidate(variant.kind, title, changes, variant.cost, touches, variant.saves_mb)


def replacements(base: Base) -> Iterator[Candidate]:
    """Smaller services of the same role."""
    inside = {member.service for member in base.target.members}
    for service in sorted(inside & base.crowded):
        role, size = base.services[service].role, base.foot(service).vram_mb
        if role is None:
            continue
        for other in sorted(base.services):
            smaller = base.foot(other).vram_mb
            if base.services[other].role == role and other not in inside and smaller < size:
                yield Candidate(
                    AlternativeKind.SMALLER_PRESET,
                    f"{other} ({smaller} MiB) in place of {service} ({size} MiB)",
                    Changes(replace={service: other}),
                    3 + 3 * (1 - smaller / size),
                    frozenset((service, other)),
                    base.foot(service).start_peak_mb,
                )


def left_out(base: Base) -> Iterator[Candidate]:
    """Members that nothing else needs."""
    needed = {need for member in base.target.members for need in base.services[member.service].needs}
    sizes = {member.service: base.foot(member.service).vram_mb for member in base.target.members}
    whole = max(1, sum(sizes.values()))
    for service in sorted(sizes.keys() & base.crowded - needed):
        cost = 12 + 8 * sizes[service] / whole
        changes = Changes(leave_out=(service,))
        saves_mb = sum(base.foot(gone).start_peak_mb for gone in with_needs(base.services, [service]))
        title, touches = f"without {service}", frozenset((service,))
        yield Candidate(AlternativeKind.LEAVE_OUT, title, changes, cost, touches, saves_mb)


def with_context(base: Base, service: str, tokens: int) -> Candidate:
    """The candidate that gives `service` a context of `tokens`.

    What was measured holds for the context that it was measured with, so the change says what is left of it.
    """
    whole = base.services[service].context_size or tokens
    delta_mb = context_delta_mb(base.services[service], tokens)
    foot = base.foot(service)
    vram_mb = {service: max(0, foot.vram_mb + delta_mb)} if foot.source is Source.MEASURED else {}
    return Candidate(
        AlternativeKind.CONTEXT,
        f"{service} with a context of {tokens} instead of {whole}",
        Changes(context_size={service: tokens}, vram_mb=vram_mb),
        1 + 8 * (1 - tokens / whole),
        frozenset((service,)),
        -delta_mb,
    )


def combine(one: Candidate, two: Candidate) -> Candidate:
    """Both changes at once, which costs a little more than each: two things to remember."""
    a, b = one.changes, two.changes
    changes = Changes(
        time_share=tuple(sorted({*a.time_share, *b.time_share})),
        context_size={**a.context_size, **b.context_size},
        unit_vars={**a.unit_vars, **b.unit_vars},
        vram_mb={**a.vram_mb, **b.vram_mb},
        replace={**a.replace, **b.replace},
        leave_out=tuple(sorted({*a.leave_out, *b.leave_out})),
    )
    title = f"{one.title}, and {two.title}"
    cost = one.cost + two.cost + 1
    touches, saves_mb = one.touches | two.touches, one.saves_mb + two.saves_mb
    return Candidate(AlternativeKind.COMBINATION, title, changes, cost, touches, saves_mb)


def _join(names: list[str] | tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
