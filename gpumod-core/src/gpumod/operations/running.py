"""start, stop, restart, sleep, wake: one service, by the same plans as a switch. Each is refused where its plan takes
away what somebody has a turn with."""

from __future__ import annotations

from gpumod.domain.errors import Failed
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.mode import Want
from gpumod.domain.plan import Target, TargetMember
from gpumod.domain.run import STOP_ASKED, RunStatus
from gpumod.domain.states import State
from gpumod.domain.turns import Places
from gpumod.engine.change import change
from gpumod.engine.observe import observe_twice
from gpumod.engine.planning import Options, Wanted, definitions, plan_for
from gpumod.engine.turns import places
from gpumod.operations.base import OnProgress, change_result, reporter
from gpumod.operations.params import ServiceChange
from gpumod.operations.results import ChangeResult
from gpumod.operations.switching import dry
from gpumod.operations.targets import Targets


class Running(Targets):
    async def service_start(self, params: ServiceChange, progress: OnProgress = None) -> ChangeResult:
        """Start a service and what it needs; the others stay as they are."""
        return await self._do("start", params, _alone(params.service, Want.AWAKE), progress)

    async def service_wake(self, params: ServiceChange, progress: OnProgress = None) -> ChangeResult:
        """Wake a sleeping service; one that sleeps by being stopped is started. Where it takes turns with others of the
        mode, the one that is awake goes to sleep (so do `start` and `restart`)."""
        return await self._do("wake", params, _alone(params.service, Want.AWAKE), progress)

    async def service_stop(self, params: ServiceChange, progress: OnProgress = None) -> ChangeResult:
        """Stop a service; refused while others need it, unless `cascade`."""
        return await self._do("stop", params, Target(stop=(params.service,), stop_others=False), progress)

    async def service_restart(self, params: ServiceChange, progress: OnProgress = None) -> ChangeResult:
        """Stop and start a service with its present definition."""
        target = _alone(params.service, Want.AWAKE).model_copy(update={"restart": (params.service,)})
        return await self._do("restart", params, target, progress)

    async def service_sleep(self, params: ServiceChange, progress: OnProgress = None) -> ChangeResult:
        """Put a running service to sleep; one that cannot sleep is stopped."""
        return await self._do("sleep", params, _alone(params.service, Want.ASLEEP), progress)

    async def _do(self, verb: str, params: ServiceChange, target: Target, progress: OnProgress) -> ChangeResult:
        handles = self._machine.store.handles()
        known = {**{s: h.launched for s, h in handles.items()}, **self._machine.store.services()}
        service = self._service(params.service, known)

        def build(snapshot: HostSnapshot) -> Wanted:
            state = snapshot.reading(service.id).state
            if verb == "sleep" and state not in (State.RUNNING, State.SLEEPING, State.STOPPED):
                raise Failed(
                    "not-running",
                    f"{service.id} is {state}, so it cannot be put to sleep",
                    hint=f"gpumod service stop {service.id}",
                )
            if verb == "sleep" and state is State.STOPPED and service.supports_sleep:
                raise Failed("not-running", f"{service.id} is not running", hint=f"gpumod service start {service.id}")
            way = self._make_way(service.id, snapshot) if verb in ("start", "wake", "restart") else ()
            named = frozenset(m.service for m in (*target.members, *way) if m.want is Want.ASLEEP)
            return Wanted(target.model_copy(update={"members": (*target.members, *way)}), known, named=named)

        options = Options(
            force=params.force,
            rollback=not params.no_rollback,
            cascade=params.cascade,
            timeout_s=params.timeout_s,
        )
        mode, told = self._machine.store.current_mode(), self._told_settings()
        if params.dry_run:
            snapshot = await observe_twice(self._machine)
            result = dry(plan_for(self._machine, snapshot, build(snapshot), options), mode, options)
        else:
            outcome = await change(self._machine, f"service {verb} {service.id}", build, options, reporter(progress))
            result = change_result(outcome, mode, self._machine.store.current_mode())
            if verb in ("stop", "sleep") and outcome.status is RunStatus.NOTHING_TO_DO:
                self._machine.store.add_event(self._event(STOP_ASKED, service.id))  # `watch` is not to start it again
        return result.model_copy(update={"notes": (*result.notes, *told)})

    def _make_way(self, service: str, snapshot: HostSnapshot) -> tuple[TargetMember, ...]:
        """Who goes to sleep for `service`, where the mode lets members take turns: at most one of them is awake."""
        places = self._places(snapshot)
        if service not in places:
            return ()
        others = sorted(s for s, place in places.items() if s in place and s not in places[service])
        awake = [s for s in others if snapshot.reading(s).state is State.RUNNING]
        return tuple(TargetMember(service=s, want=Want.ASLEEP, why=f"it is the turn of {service}") for s in awake)

    def _places(self, snapshot: HostSnapshot) -> Places:
        """Where turns are in the current mode, as it was taken: those of its members that share one place, at most one
        of them awake, and what needs them."""
        members = self._current_target(snapshot).members
        services = definitions(snapshot, Wanted(Target(), self._machine.store.services()), ())
        return places(services, [m.service for m in members if m.want is Want.TIME_SHARED])

    def _current_target(self, snapshot: HostSnapshot) -> Target:
        """What the current mode wants, as it was taken; where there is none, nothing."""
        store = self._machine.store
        mode = store.modes().get(store.current_mode() or "")
        if mode is None:
            return Target(stop_others=False)
        return self._as_taken(mode, store.current_alternative(), snapshot, self._defined())[0].target


def _alone(service: str, want: Want) -> Target:
    return Target(members=(TargetMember(service=service, want=want),), stop_others=False)
