"""Adopted units: `systemctl start`, `stop` and `show`, and nothing else. No file of theirs is ever written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumod.adapters.launches import anothers, refuse_anothers
from gpumod.adapters.systemd import states
from gpumod.adapters.systemd.cgroups import pids_in
from gpumod.adapters.systemd.journal import lines_of
from gpumod.adapters.systemd.leave import ask_leave
from gpumod.adapters.systemd.manager import Manager, Properties, Scope, refused
from gpumod.adapters.systemd.waiting import until_over
from gpumod.domain.errors import Failed, UsageError
from gpumod.domain.run import Handle
from gpumod.ports import Clock, Launch, LaunchFile, ProcessStatus

STOP_TIMEOUT_S = 3600.0
"""For units whose time to stop has no end."""
LEFT_S = 2.0
_POLL_S = 0.02
_ASK_S = 0.5
"""So often systemd is asked after a unit that has no main process: each time that takes a program's start."""
_LEAVE = "let a polkit rule allow it for this unit (docs/adoption.md says which), or run gpumod as root"


class AdoptedUnits:
    """Implements :class:`gpumod.ports.Supervisor` for units of one manager that somebody else wrote."""

    def __init__(self, home: Path, clock: Clock, *, scope: Scope) -> None:
        self.name = f"adopted-{scope}"
        self._home = home
        self._clock = clock
        self._manager = Manager(scope)
        self._met: dict[str, str] = {}

    def reach(self) -> None:
        """Raise MachineLacks where there is no such manager."""
        self._manager.reach()

    def meet(self, handle: Handle) -> None:
        """Remember which unit a service is."""
        self._unit(handle)

    def _unit(self, handle: Handle) -> str:
        adopted = handle.launched.adopted
        if adopted is None or adopted.unit is None:
            raise not_adopted(handle.service, self.name)
        self._met[handle.service] = adopted.unit
        return adopted.unit

    def check(self, handle: Handle, launch: Launch) -> None:
        """Raise Failed `unit-gone` for a unit that is no longer there, MachineLacks where its manager is not, and
        `anothers-home` where root would start what another user's home names."""
        refuse_anothers(self._home, handle.service)
        unit = self._unit(handle)
        words = ["systemctl", *self._scope(), "show", "--property=LoadState", "--value", "--", unit]
        loaded = self._manager.run(words).out.strip()
        if loaded != "loaded":
            raise Failed(
                "unit-gone",
                f"the unit {unit} of {handle.service} cannot be started",
                why=f"systemd says of it: {loaded or 'nothing'}",
                hint=f"see `systemctl {' '.join([*self._scope(), 'status', unit])}`, or: "
                f"gpumod service release {handle.service}",
            )

    async def may(self, handles: Sequence[Handle]) -> None:
        """Raise MachineLacks `not-allowed` where this user may not start and stop the units of `handles`, and
        `anothers-home` as :meth:`stop` does."""
        for handle in handles:
            refuse_anothers(self._home, handle.service, stop=True)
        await ask_leave(self._manager, sorted({self._unit(handle) for handle in handles}), _LEAVE)

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        """Have the unit started as it is; nothing of `launch` and `env` reaches it. Raises Failed and MachineLacks.

        Returns when systemd has taken that on: whether it comes up, and in what time, is seen by its status.
        """
        refuse_anothers(self._home, handle.service)
        unit = self._unit(handle)
        answer = await self._manager.start("--no-block", "--", unit)
        if answer.code:
            raise refused(self._manager.scope, "was not started", answer, unit, _LEAVE)
        return states.token_of(await self._shown(unit))

    async def stop(self, handle: Handle, launch: Launch) -> None:
        """Stop the unit in its own way and time. Raises Failed `left-running` for what its KillMode= spares,
        MachineLacks `anothers-home` where root would end what another user's home names."""
        refuse_anothers(self._home, handle.service, stop=True)
        unit = self._unit(handle)
        shown = await self._shown(unit)
        if not states.is_due(shown):
            return
        time_s = states.seconds(shown, "TimeoutStopUSec")
        patience_s = STOP_TIMEOUT_S if time_s is None else 60 + 4 * time_s
        answer = await self._manager.call("stop", "--", unit, timeout_s=patience_s)
        if answer.code:
            raise refused(self._manager.scope, "was not stopped", answer, unit, _LEAVE)
        give_up = self._clock.monotonic() + LEFT_S
        while left := pids_in(shown.get("ControlGroup", "")):
            if self._clock.monotonic() >= give_up:
                raise Failed(
                    "left-running",
                    f"the unit {unit} was stopped, and left processes running: {', '.join(map(str, left[:10]))}",
                    why="its KillMode= spares them, and a unit of somebody else is only stopped in its own way",
                    hint="end them by hand, or let the unit say KillMode=control-group",
                )
            await self._clock.sleep(_POLL_S)

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        """The status of each, by service id; one question to systemd for all."""
        names = {handle.service: self._unit(handle) for handle in handles}
        shown = await self._manager.show(sorted(set(names.values())), states.ASKED)
        return {service: _status(shown.get(unit, {"Id": unit})) for service, unit in names.items()}

    async def exited(self, handle: Handle) -> ProcessStatus:
        """Wait, for as long as it takes, until the unit has ended; return the status then."""

        async def look() -> ProcessStatus:
            return (await self.status([handle]))[handle.service]

        return await until_over(look, self._clock, _ASK_S)

    def logs(self, service: str, lines: int) -> tuple[str, ...]:
        """The last lines of the present or last run, from the journal. Blocks some 20 ms.

        None where root asks for another user's home, which may keep them: that user could name any unit.
        """
        if service not in self._met or anothers(self._home):
            return ()
        unit = self._met[service]
        words = ["systemctl", *self._scope(), "show", "--property=InvocationID", "--value", "--", unit]
        return lines_of(self._manager, unit, self._manager.run(words).out.strip(), lines)

    def log_path(self, service: str) -> None:
        """The journal keeps the log: there is no file."""

    def follow_command(self, service: str, lines: int) -> tuple[str, ...]:
        """A journalctl that goes on with what the unit writes."""
        unit = "--user-unit" if self._manager.scope == "user" else "--unit"
        plain = ("journalctl", "--quiet", "--no-pager", "--output=cat", "--all", "--follow", f"--lines={lines}")
        return (*plain, f"{unit}={self._met.get(service, service)}")

    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None:
        """Refused: nothing of somebody else's is written."""
        raise not_ours(service)

    async def _shown(self, unit: str) -> Properties:
        return (await self._manager.show([unit], states.ASKED)).get(unit, {"Id": unit})

    def _scope(self) -> list[str]:
        return ["--user"] if self._manager.scope == "user" else []


def _status(shown: Properties) -> ProcessStatus:
    told = states.state_of(shown)
    if not states.is_active(shown):
        if states.is_due(shown):
            return ProcessStatus(alive=True, token=states.token_of(shown), detail="systemd has yet to start it")
        failed = shown.get("ActiveState") == "failed"
        detail = f"its unit has failed ({shown.get('Result', 'nobody knows why')})" if failed else told.detail
        return ProcessStatus(alive=False, exit_code=told.exit_code if failed else None, detail=detail)
    return told


def not_adopted(service: str, name: str) -> UsageError:
    return UsageError(
        "not-adopted",
        f"service {service!r} was not adopted, so {name} cannot keep it",
        hint=f"gpumod service edit {service} --unset run_with; gpumod settings set supervisor --default",
    )


def not_ours(service: str) -> Failed:
    return Failed(
        "adopted",
        f"{service} was adopted: its files are somebody else's, and are not written",
        hint=f"gpumod service release {service}, and define one of gpumod's own",
    )
