"""Alternatives to a target that does not fit: every one was planned, and fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gpumod.domain.errors import GpumodError
from gpumod.domain.footprint import Footprint
from gpumod.domain.plan import Alternative, AlternativeKind, Changes, Plan, Target, Variant
from gpumod.domain.service import Service
from gpumod.planner.candidates import BLOCK, MIN_CONTEXT, Base, Candidate, FootprintOf, combine, with_context
from gpumod.planner.changes import apply_changes, apply_to_footprints, edited_by
from gpumod.planner.ids import alternative_id

MOST = 12
MOST_PLANS = 150
"""So many plans are made at most in the search for alternatives: fewer where plans are large."""

Planner = Callable[[Target, Mapping[str, Service], Mapping[str, Footprint]], Plan | None]
"""Makes the plan of a target; None where it does not fit."""


class _Search:
    """Plans candidates until enough are found or the plans are used up."""

    def __init__(self, plan: Planner, base: Base) -> None:
        self.plan = plan
        self.base = base
        self.left = max(30, min(MOST_PLANS, 3000 // max(1, len(base.crowded))))
        self.found: list[tuple[Candidate, Plan]] = []

    def fits(self, candidate: Candidate) -> Plan | None:
        """Its plan where it fits; None where it does not, or cannot be planned."""
        if self.left <= 0:
            return None
        self.left -= 1
        base = self.base
        try:
            restarting = {s: base.stored[s] for s in edited_by(candidate.changes) if s in base.stored}
            target, services = apply_changes(base.target, {**base.services, **restarting}, candidate.changes)
            return self.plan(target, services, self._footprints(services, candidate.changes))
        except GpumodError:
            return None

    def _footprints(self, services: Mapping[str, Service], changes: Changes) -> Mapping[str, Footprint]:
        """What everything takes with `changes` made: just what whoever takes the alternative will count with."""
        tell = self.base.footprint_of
        if tell is None:
            return apply_to_footprints(self.base.footprints, self.base.services, changes)
        return {**self.base.footprints, **{s: tell(services[s]) for s in edited_by(changes)}}

    def try_out(self, candidate: Candidate, beside: Candidate | None = None) -> bool:
        """Keep `candidate` (together with `beside`) if it fits."""
        if candidate.context_of:
            return self._largest_context(candidate.context_of, beside)
        both = combine(beside, candidate) if beside else candidate
        plan = self.fits(both)
        if plan is not None:
            self.found.append((both, plan))
        return plan is not None

    def _largest_context(self, service: str, beside: Candidate | None) -> bool:
        """Bisect for the largest context that fits: more context never takes less memory."""
        low = MIN_CONTEXT // BLOCK
        high = ((self.base.services[service].context_size or 0) - 1) // BLOCK
        best: tuple[Candidate, Plan] | None = None
        first = True
        while low <= high:
            middle = low if first else (low + high) // 2
            context = with_context(self.base, service, middle * BLOCK)
            candidate = combine(beside, context) if beside else context
            plan = self.fits(candidate)
            if plan is None:
                if first:
                    return False
                high = middle - 1
            else:
                best, low = (candidate, plan), middle + 1
            first = False
        if best:
            self.found.append(best)
        return best is not None


def find_alternatives(
    plan: Planner,
    unfit: Plan,
    services: Mapping[str, Service],
    footprints: Mapping[str, Footprint],
    variants: Mapping[str, tuple[Variant, ...]],
    stored: Mapping[str, Service] | None = None,
    footprint_of: FootprintOf | None = None,
) -> tuple[Alternative, ...]:
    """What fits in place of `unfit`, by what it costs the user: single changes, and pairs of those that do not suffice.

    `plan` makes a plan of a target where that fits, without looking for alternatives.
    """
    tight = {gpu.index for gpu in unfit.gpus if gpu.exceeds_by_mb}
    wanted = [row for row in unfit.services if row.wanted not in ("stopped", "kept") and row.id in services]
    crowded = frozenset(row.id for row in wanted if tight & set(row.gpus) or unfit.ram_exceeds_by_mb)
    base = Base(unfit.target, services, footprints, variants, crowded, stored or {}, footprint_of)
    search = _Search(plan, base)
    missing_mb = 0 if unfit.ram_exceeds_by_mb else unfit.exceeds_by_mb
    lacking = [c for c in search.base.all() if c.saves_mb < missing_mb or not search.try_out(c)]
    pairs = [
        (one, two)
        for i, one in enumerate(lacking)
        for two in lacking[i + 1 :]
        if one.saves_mb + two.saves_mb >= missing_mb
        and not one.touches & two.touches
        and not (one.context_of and two.context_of)
        # members that take turns are one group, whoever proposed them
        and not (one.kind is two.kind is AlternativeKind.TIME_SHARE)
    ]
    pairs.sort(key=lambda pair: pair[0].cost + pair[1].cost)
    for one, two in pairs:
        if search.left <= 0 or len(search.found) >= 2 * MOST:
            break
        if one.context_of:
            search.try_out(one, beside=two)
        else:
            search.try_out(two, beside=one)
    return _ranked(unfit.target, search.found)


def _asked_for(target: Target) -> str:
    """Contexts that somebody asked for are a part of what an alternative starts."""
    told = ", ".join(f"{service} at {tokens}" for service, tokens in sorted(target.context.items()))
    return f" (asked for: a context of {told})" if told else ""


def _ranked(target: Target, found: list[tuple[Candidate, Plan]]) -> tuple[Alternative, ...]:
    """The cheapest, but the best of each kind in any case."""
    ordered = sorted(found, key=lambda pair: (pair[0].cost, pair[0].title))
    firsts: dict[AlternativeKind, int] = {}
    for here, (candidate, _) in enumerate(ordered):
        firsts.setdefault(candidate.kind, here)
    chosen = set(firsts.values())
    chosen.update([here for here in range(len(ordered)) if here not in chosen][: max(0, MOST - len(chosen))])
    return tuple(
        Alternative(
            id=alternative_id(target, candidate.changes),
            kind=candidate.kind,
            title=f"{candidate.title}{_asked_for(target)}",
            changes=candidate.changes,
            verdict=plan.verdict,
            peak_mb=max((gpu.peak_mb for gpu in plan.gpus), default=0),
            cost=round(candidate.cost, 3),
        )
        for candidate, plan in (ordered[here] for here in sorted(chosen))
    )
