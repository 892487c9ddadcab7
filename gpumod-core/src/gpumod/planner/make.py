"""`make_plan`: the one entrance of the planner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpumod.domain.footprint import Footprint
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.plan import Lease, Plan, Policy, Target, Variant
from gpumod.domain.service import Service
from gpumod.planner.alternatives import find_alternatives
from gpumod.planner.candidates import FootprintOf
from gpumod.planner.report import fits, tell
from gpumod.planner.solve import solve
from gpumod.planner.world import World, declared

DEFAULT_POLICY = Policy()


def make_plan(
    snapshot: HostSnapshot,
    target: Target,
    services: Mapping[str, Service],
    footprints: Mapping[str, Footprint],
    *,
    leases: Iterable[Lease] = (),
    policy: Policy = DEFAULT_POLICY,
    variants: Mapping[str, tuple[Variant, ...]] | None = None,
    stored: Mapping[str, Service] | None = None,
    footprint_of: FootprintOf | None = None,
    as_launched: Mapping[str, Footprint] | None = None,
) -> Plan:
    """The steps from `snapshot` to `target`, whether they fit, and what would fit where they do not. Pure.

    `services` are all definitions, `footprints` what they take (where one is missing, what its service declares),
    `variants` the other ways to run a service that its driver offers. `stored` are the definitions with which an
    alternative restarts what is up with another one, and `footprint_of` tells what a definition that an alternative
    changes takes, so that taking it counts with the numbers with which it was found; without it they are predicted
    from `footprints`. `as_launched` are the footprints of what is up with another definition than it will have.
    The plan is complete even where it does not fit, so that it can be forced.

    Raises UnknownName (`unknown-service`, `unknown-dependency`, `unknown-gpu`), UsageError (`dependency-cycle`,
    `port-conflict`, `wanted-and-stopped`), Failed (`has-dependents`) and MachineLacks (`no-gpu`). What is leased stays
    awake where it may; whoever names it to be stopped gets that plan, and decides.
    """
    held = tuple(leases)
    # what is up holds what it was started with, whatever an alternative makes of its definition
    now = {s: declared(r.launched) for s, r in snapshot.services.items() if r.launched and s not in footprints}
    now |= {s: footprints[s] for s in snapshot.services if s in footprints} | dict(as_launched or {})

    def plan_if_fits(
        target: Target, services: Mapping[str, Service], footprints: Mapping[str, Footprint]
    ) -> Plan | None:
        world = World(snapshot, services, footprints, held, policy, now)
        solution = solve(world, target)
        return tell(world, target, solution) if fits(world, solution) else None

    world = World(snapshot, services, footprints, held, policy, now)
    made = tell(world, target, solve(world, target))
    if made.fits or not policy.alternatives:
        return made
    found = find_alternatives(plan_if_fits, made, services, footprints, variants or {}, stored, footprint_of)
    return made.model_copy(update={"alternatives": found})
