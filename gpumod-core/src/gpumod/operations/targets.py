"""What is asked for, as a target with its definitions: a mode, what a simulation names, an alternative."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from gpumod.domain.box import Box
from gpumod.domain.errors import ErrorInfo, GpumodError, Stale, UsageError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Mode, ModeMember, Want
from gpumod.domain.plan import Alternative, Plan, Target, TargetMember
from gpumod.domain.service import Service
from gpumod.domain.states import SERVING, Action, State
from gpumod.engine.planning import Wanted
from gpumod.operations.base import Base, drift, restarts, unknown
from gpumod.operations.params import SimulateParams
from gpumod.planner import apply_changes
from gpumod.planner.changes import edited_by, with_needs


class Targets(Base):
    def _defined(self) -> Box:
        """The services and modes that are stored."""
        return Box(self._machine.store.services(), self._machine.store.modes())

    def _asked(self, params: SimulateParams, snapshot: HostSnapshot, defined: Box) -> Wanted:
        """What a simulation is about: a base among what is `defined`, with services added and removed and contexts
        changed."""
        if params.mode is not None and params.services is not None:
            raise UsageError("bad-input", "--mode and --services cannot be combined", hint="use --mode with --add")
        services = dict(defined.services)
        if params.mode is not None:
            target = target_of_mode(self._mode(params.mode, defined.modes))
        elif params.services is not None:
            target = Target(members=tuple(TargetMember(service=s) for s in params.services))
        else:
            target = Target(members=serving(snapshot))
        why = f"added to mode {target.mode}" if target.mode else "added"
        named = {m.service for m in target.members}
        added = tuple(TargetMember(service=s, why=why) for s in params.add if s not in named)
        members = tuple(m for m in (*target.members, *added) if m.service not in params.remove)
        for member in members:
            self._service(member.service, services)
        self._refuse_strangers(params.remove, [m.service for m in (*target.members, *added)], services)
        changed: dict[str, Service] = {}
        known = {member.service for member in members}
        for name, tokens in params.context.items():
            self._service(name, services)
            if name not in known:
                raise UsageError(
                    "bad-context",
                    f"{name} is not among the services that are simulated",
                    why=f"these are: {', '.join(sorted(known)) or 'none'}",
                    hint=f"--add {name}",
                )
            try:
                changed[name] = self._service(name, services).with_context(tokens)
            except ValueError as error:
                raise UsageError("bad-context", str(error), hint="give it kv_cache_per_1k and context_size") from error
        asked = target.model_copy(update={"members": members, "context": dict(params.context)})
        return _with(asked, services, changed, snapshot)

    def _refuse_strangers(
        self, removed: Iterable[str], members: Collection[str], services: Mapping[str, Service]
    ) -> None:
        """Raise where something is to be left out that is not there to begin with."""
        for name in removed:
            if name not in members:
                self._service(name, services)
                raise UsageError(
                    "not-a-member",
                    f"{name} cannot be left out: it is not among the services that are simulated",
                    why=f"these are: {', '.join(members) or 'none'}",
                    hint=f"leave --remove {name} away",
                )

    def _as_taken(
        self, mode: Mode, alternative: str | None, snapshot: HostSnapshot, defined: Box
    ) -> tuple[Wanted, ErrorInfo | None]:
        """What `mode` wants with the alternative with which it was taken; as it is defined where that can no longer be
        applied, and then why."""
        plain = Wanted(target_of_mode(mode), defined.services)
        if alternative is None:
            return as_wanted(plain, snapshot), None
        try:
            return self._alternative(mode.id, alternative, snapshot, defined), None
        except GpumodError as error:  # also a definition that cannot be read
            return as_wanted(plain, snapshot), error.info

    def _alternative(self, mode_id: str, alternative_id: str, snapshot: HostSnapshot, defined: Box) -> Wanted:
        """The target of a stored alternative, made anew from what is `defined`."""
        stored = self._machine.store.simulation_with(alternative_id)
        if stored is None:
            of_mode = (s for s in self._machine.store.simulations(50) if s.base.get("mode") == mode_id)
            offered = {a.id for s in of_mode for a in s.plan.alternatives}
            raise unknown("alternative", alternative_id, offered, f"gpumod simulate --mode {mode_id}")
        found = next(a for a in stored.plan.alternatives if a.id == alternative_id)
        params = SimulateParams.model_validate(stored.base)
        if params.mode != mode_id:
            base = f"mode {params.mode}" if params.mode else "no mode"
            raise UsageError(
                "other-alternative",
                f"alternative {alternative_id} does not belong to mode {mode_id}",
                why=f"it was found for {base}",
                hint=f"gpumod switch {params.mode} --with {alternative_id}"
                if params.mode
                else f"gpumod simulate --mode {mode_id}",
            )
        wanted = as_wanted(taken(self._asked(params, snapshot, defined), found, snapshot), snapshot)
        told = f"{self._told(alternative_id)} of mode {mode_id}"
        altered = {s: told for s, definition in wanted.services.items() if defined.services.get(s) != definition}
        update = {"alternative": alternative_id, "altered": altered}
        return Wanted(wanted.target.model_copy(update=update), wanted.services)

    def _told(self, alternative_id: str) -> str:
        """A stored alternative in words; "" for one that is not stored any more."""
        stored = self._machine.store.simulation_with(alternative_id)
        titles = [a.title for a in stored.plan.alternatives if a.id == alternative_id] if stored else []
        return f"alternative {alternative_id} ({titles[0]})" if titles else ""


def in_words(error: ErrorInfo) -> str:
    """An error with its reason, as the reason of another one."""
    return f"{error.message}: {error.why}" if error.why else error.message


def target_of_mode(mode: Mode) -> Target:
    """What a switch to `mode` wants."""
    return Target(
        mode=mode.id,
        members=tuple(TargetMember(service=m.service, want=m.want, start_order=m.start_order) for m in mode.members),
    )


def mode_of(mode: Mode, taken: Target) -> Mode:
    """`mode` with the members that it was `taken` with, and how they are wanted."""
    known = {member.service: member for member in mode.members}
    members = (known.get(m.service, ModeMember(service=m.service)) for m in taken.members)
    wants = {member.service: member.want for member in taken.members}
    return mode.model_copy(update={"members": tuple(m.model_copy(update={"want": wants[m.service]}) for m in members)})


def taken(asked: Wanted, alternative: Alternative, snapshot: HostSnapshot) -> Wanted:
    """`asked` with an alternative's changes. Raises Stale when what it changes is no longer there."""
    changes = alternative.changes
    there = with_needs(asked.services, [member.service for member in asked.target.members])
    lost = {*changes.time_share, *changes.replace, *changes.leave_out, *edited_by(changes)} - there
    try:
        if lost:
            raise ValueError(f"{', '.join(sorted(lost))} is no longer among the services")
        target, services = apply_changes(asked.target, asked.services, changes)
    except (GpumodError, KeyError, ValueError) as error:
        raise Stale(
            "stale-alternative",
            f"alternative {alternative.id} can no longer be applied",
            why=str(error),
            hint=f"gpumod simulate --mode {asked.target.mode}" if asked.target.mode else "gpumod simulate",
        ) from error
    changed = {s: d for s, d in services.items() if asked.services.get(s) != d}
    # what runs as the alternative has it already (it was taken before) need not restart
    again = tuple(s for s in target.restart if s not in changed or drift(changed[s], snapshot.reading(s)))
    return _with(target.model_copy(update={"restart": again}), services, changed, snapshot)


def _with(
    target: Target, services: Mapping[str, Service], changed: Mapping[str, Service], snapshot: HostSnapshot
) -> Wanted:
    """Use changed definitions; what is up with another one is restarted."""
    again = restarts(changed, snapshot, [m.service for m in target.members])
    return Wanted(target.model_copy(update={"restart": (*target.restart, *again)}), {**services, **changed})


def as_wanted(wanted: Wanted, snapshot: HostSnapshot) -> Wanted:
    """`wanted`, where what still runs as an alternative had changed it restarts with the definition that is wanted.

    gpumod itself had changed that. What the user edited since its start is another matter: that waits for a restart.
    """
    there = with_needs(wanted.services, [member.service for member in wanted.target.members])
    readings = [snapshot.reading(service) for service in sorted(there)]
    again = [r.service for r in readings if r.altered and r.state in SERVING and drift(wanted.services[r.service], r)]
    restart = tuple(dict.fromkeys((*wanted.target.restart, *again)))
    return Wanted(wanted.target.model_copy(update={"restart": restart}), wanted.services)


def told_of_edits(wanted: Wanted, snapshot: HostSnapshot, plan: Plan) -> tuple[str, ...]:
    """What of `wanted` was edited since its start and goes on with the old definition after `plan`, and how to apply
    that. What an alternative had changed is another matter."""
    there = with_needs(wanted.services, [member.service for member in wanted.target.members])
    started = {step.service for step in plan.steps if step.action is Action.START}
    up = [r for s in sorted(there - started) if (r := snapshot.reading(s)).state in SERVING and not r.altered]
    edited = {r.service: drift(wanted.services[r.service], r) for r in up}
    told = "{0} was edited since its start and runs with another {1}: `gpumod service restart {0}` applies it"
    return tuple(told.format(s, ", ".join(fields)) for s, fields in edited.items() if fields)


def serving(snapshot: HostSnapshot) -> tuple[TargetMember, ...]:
    """What serves now, as members."""
    return tuple(
        TargetMember(service=r.service, want=Want.AWAKE if r.state is State.RUNNING else Want.ASLEEP)
        for r in snapshot.services.values()
        if r.state in (State.RUNNING, State.SLEEPING)
    )
