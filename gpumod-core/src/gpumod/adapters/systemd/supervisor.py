"""The systemd supervisor: a unit per service, kept by the system's or by the user's manager.

A service is found again by its unit, whose name is made of its id and its home alone: whatever becomes of gpumod, there
is never a second copy of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gpumod import ports
from gpumod.adapters.asking import Asker
from gpumod.adapters.files import remove_file, write_atomic
from gpumod.adapters.launches import (
    Resolved,
    already_running,
    anothers,
    cannot_execute,
    cannot_kill,
    refuse_anothers,
    resolved,
)
from gpumod.adapters.process.proc import NONCE_VARIABLE
from gpumod.adapters.service_user import refuse_other_user
from gpumod.adapters.systemd import states, units
from gpumod.adapters.systemd.cgroups import kill_all
from gpumod.adapters.systemd.envfile import environment_text
from gpumod.adapters.systemd.journal import lines_of
from gpumod.adapters.systemd.leave import ask_leave
from gpumod.adapters.systemd.manager import Answer, Manager, Properties, Scope, refused
from gpumod.adapters.systemd.reloading import Reloading
from gpumod.adapters.systemd.rendering import Rendering, public_variables
from gpumod.adapters.systemd.units import Unit
from gpumod.adapters.systemd.waiting import until_over
from gpumod.domain.errors import GpumodError, MachineLacks, UsageError
from gpumod.domain.run import Handle
from gpumod.domain.settings import Settings
from gpumod.ports import Clock, Launch, LaunchFile, ProcessStatus
from gpumod.ports.units import Stray, UnitText

START_TIMEOUT_S = 120.0
KILL_TIMEOUT_S = 10.0
GRACE_S = 1.0
_POLL_S = 0.02
EXEC_FAILED = 203
"""The status that systemd gives for a program that could not be executed."""


class SystemdSupervisor:
    """Implements :class:`gpumod.ports.Supervisor` with units of one manager."""

    def __init__(
        self,
        home: Path,
        home_id: str,
        settings: Settings,
        clock: Clock,
        folders: Sequence[Path] = (),
        *,
        scope: Scope,
    ) -> None:
        """`folders` are those of templates that plugins offer."""
        self.name = f"systemd-{scope}"
        self._settings = settings
        self._home = home
        self._clock = clock
        self._manager = Manager(scope)
        self._rendering = Rendering(home, home_id, settings, scope, folders)
        self._reloading = Reloading(self._manager, settings)
        self._asker = Asker(settings)
        self._told: list[tuple[Handle, Launch]] = []
        self._writing = asyncio.Lock()

    # --- units --------------------------------------------------------------------------------------------------

    def reach(self) -> None:
        """Raise MachineLacks where there is no such manager."""
        self._manager.reach()

    def unit(self, handle: Handle, launch: Launch, template: str | None = None) -> UnitText:
        """The unit as it should be, and what is there. Raises what :meth:`check` raises of values and templates."""
        found = self._resolved(handle, launch)
        unit = self._rendering.unit(handle, launch, found, template)
        there = units.there(unit.path, self._rendering.whose(), handle.service)
        return UnitText(
            name=unit.name,
            path=unit.path,
            text=unit.text,
            template=unit.template,
            there=there,
            edited=there is not None and units.was_edited(there),
            program=found.program,
        )

    async def install(self, handle: Handle, launch: Launch) -> None:
        """Write the unit, if it differs, and have it read. Starts nothing."""
        async with self._writing:
            wanted = [self._unit(handle, launch)]
            await self._write(wanted, await self._ask(wanted))

    def units(self) -> Mapping[str, Path]:
        """The units of this home that are there, by service."""
        found = units.of_home(self._rendering.folder, self._rendering.whose())
        return {service: path for service, path in found if path.name == self._rendering.name(service)}

    async def withdraw(self, service: str) -> bool:
        """Remove the unit of a service, so that nothing of it is left here. False where it is up, and so needs it.

        Raises MachineLacks `unit-needs-root`, and where there is a unit but no manager to ask.
        """
        path = self.units().get(service)
        if path is None:
            return True
        shown = await self._shown(path.name)
        if states.is_due(shown) or states.pids_of(shown):
            return False
        units.remove(path, self._rendering.whose(), service)
        await self._manager.call("reset-failed", "--", path.name)  # else systemd remembers it; no reload is needed
        return True

    async def forget(self, service: str) -> bool:
        """Remove what was written for a service: its unit, and the file of its variables. Else as :meth:`withdraw`."""
        gone = await self.withdraw(service)
        if gone:
            remove_file(self._rendering.environment_file(service))
        return gone

    def _unit(self, handle: Handle, launch: Launch) -> Unit:
        return self._rendering.unit(handle, launch, self._resolved(handle, launch))

    def _resolved(self, handle: Handle, launch: Launch, env: Mapping[str, str] | None = None) -> Resolved:
        folder, environ = self.service_dir(handle.service), self._rendering.environ()
        return resolved(handle.service, launch, env or {}, folder, self._settings, environ)

    @asynccontextmanager
    async def prepared(self, launches: Sequence[tuple[Handle, Launch]]) -> AsyncIterator[None]:
        """All units of a run are written at its first start, so that systemd reads them once."""
        self._told = list(launches)
        try:
            yield
        finally:
            self._told = []

    def check(self, handle: Handle, launch: Launch) -> None:
        """Raise what :meth:`start` would raise before anything runs. Units that only root may write: all of the run."""
        self._refuse_anothers(handle.service)
        self.reach()
        self._rendering.check()
        unit = self._unit(handle, launch)
        environment_text(handle.service, launch.env)
        if self._lacks_rights(unit, handle.service):
            raise units.cannot_write(unit, others=self._others_lacking(handle.service))

    async def ask(self, service: str, launch: Launch, question: Sequence[str]) -> ports.Answer | None:
        """What the program of `launch` answers, run as its unit would; for another user's home root runs none."""
        with suppress(MachineLacks, UsageError):  # its start says what is wrong
            refuse_anothers(self._home, service)
            self._refuse_anothers(service)
            environ, user = self._rendering.environ(), self._rendering.service_user()
            return await self._asker.ask(service, launch, question, self.service_dir(service), environ, user)
        return None

    def _lacks_rights(self, unit: Unit, service: str) -> bool:
        differs = units.there(unit.path, self._rendering.whose(), service) != unit.text
        return differs and not units.is_writable(unit)

    def _others_lacking(self, service: str) -> list[Unit]:
        found = []
        for handle, launch in self._told:
            with suppress(GpumodError):  # what else is wrong with it is told at its own check
                unit = self._unit(handle, launch)
                if handle.service != service and self._lacks_rights(unit, handle.service):
                    found.append(unit)
        return found

    def _refuse_anothers(self, service: str) -> None:
        if self._manager.scope == "user":  # the system's manager runs it as the home's owner, or as whom it is told
            refuse_anothers(self._home, service)
            refuse_other_user(self._settings, self._home, service)

    def _refuse_strange(self, service: str) -> None:
        """For another user's home root stops that home's own units alone, whatever id its owner has given it."""
        if self._manager.scope == "user":
            refuse_anothers(self._home, service, stop=True)
        elif anothers(self._home):
            units.there(self._rendering.path(service), self._rendering.whose(), service)

    async def may(self, handles: Sequence[Handle]) -> None:
        """Raise MachineLacks `not-allowed` where this user may not start and stop the units of `handles`, and what
        :meth:`stop` raises of units that are not this home's."""
        for handle in handles:
            self._refuse_strange(handle.service)
        await ask_leave(self._manager, sorted({self._rendering.name(handle.service) for handle in handles}))

    async def _write(self, wanted: Sequence[Unit], shown: Mapping[str, Properties]) -> None:
        """Write the units that differ, and see that the manager knows them as they are; `shown` is what it knows.

        It reads by itself what it does not hold: units that run, have failed, or are named by others. Only these take
        a reload; where that is refused, what was there is there again.
        """
        home = self._rendering.whose()
        before = {unit: units.there(unit.path, home, units.marks_of(unit.text)["Service"]) for unit in wanted}
        for unit in wanted:
            elsewhere = shown.get(unit.name, {}).get("FragmentPath", "")
            if elsewhere not in ("", str(unit.path)):
                raise units.foreign(elsewhere, "there is a unit of this name at another place")
        changed = [unit for unit in wanted if before[unit] != unit.text]
        undo = [units.write(unit) for unit in changed]
        if not changed and all(_is_read(shown.get(unit.name, {}), unit) for unit in wanted):
            return
        now = await self._ask(wanted)
        if not all(_is_read(now[unit.name], unit) for unit in wanted):
            try:
                await self._reloading.reload()
            except GpumodError:
                for put_back in undo:
                    put_back()
                raise
            now = await self._ask(wanted)
        for unit in wanted:
            if not _is_read(now[unit.name], unit):
                raise units.not_read(unit, now[unit.name])

    async def _ask(self, wanted: Sequence[Unit]) -> Mapping[str, Properties]:
        shown = await self._manager.show([unit.name for unit in wanted], states.ASKED)
        return {unit.name: shown.get(unit.name, {}) for unit in wanted}

    # --- start --------------------------------------------------------------------------------------------------

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        """Start the service's unit and return its token, once the program has really been executed.

        Raises what :meth:`check` raises, Failed `already-running`, `foreign-unit`, `cannot-execute` or
        `systemd-refused`, MachineLacks `not-allowed`. Nothing runs after an error.
        """
        service, name = handle.service, self._rendering.name(handle.service)
        self._refuse_anothers(service)
        found = self._resolved(handle, launch, env)
        alone = self._resolved(handle, launch)
        unit = self._rendering.unit(handle, launch, alone)
        async with self._writing:
            told, self._told = self._told, []
            wanted = [unit, *(self._unit(*one) for one in told if one[0].service != service)]
            known = await self._ask(wanted)
            before = known[name]
            if states.is_active(before):
                raise already_running(service, states.number(before, "MainPID"))
            # Systemd holds what failed until it is told to forget it. What still runs is written at its own start.
            if failed := [unit.name for unit in wanted if known[unit.name].get("ActiveState") == "failed"]:
                await self._manager.call("reset-failed", "--", *failed)
            await self._write([unit for unit in wanted if not states.is_active(known[unit.name])], known)
        self._rendering.prepare(service).write(service, launch.files)
        public = public_variables(alone)
        private = {key: value for key, value in found.env.items() if public.get(key) != value}
        text = environment_text(service, {**private, NONCE_VARIABLE: handle.nonce})
        write_atomic(self._rendering.environment_file(service), text, durable=False)
        remove_file(self._rendering.exit_file(service))
        answer, shown = await self._start(name)
        if answer.code and shown.get("InvocationID") == before.get("InvocationID"):
            # Nothing was run: started too often. That limit is meant for restarts by systemd itself.
            await self._manager.call("reset-failed", "--", name)
            answer, shown = await self._start(name)
        if answer.code:
            if shown.get("ExecMainStatus") == str(EXEC_FAILED):
                why = "\n".join(lines_of(self._manager, name, shown.get("InvocationID", ""), 3)) or answer.err.strip()
                await self._manager.call("reset-failed", "--", name)
                raise cannot_execute(service, found.program, why)
            raise refused(self._manager.scope, "was not started", answer, name)
        return states.token_of(shown)

    async def _start(self, name: str) -> tuple[Answer, Properties]:
        answer = await self._manager.start("--", name, timeout_s=START_TIMEOUT_S)
        return answer, await self._shown(name)

    async def _shown(self, name: str) -> Properties:
        return (await self._manager.show([name], states.ASKED)).get(name, {"Id": name})

    # --- status -------------------------------------------------------------------------------------------------

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        """The status of each handle, by service id; one question to systemd for all."""
        names = {handle.service: self._rendering.name(handle.service) for handle in handles}
        shown = await self._manager.show(sorted(names.values()), states.ASKED)
        return {
            handle.service: states.status_of(
                handle,
                shown.get(names[handle.service], {"Id": names[handle.service]}),
                states.ending_at(self._rendering.exit_file(handle.service)),
            )
            for handle in handles
        }

    async def exited(self, handle: Handle) -> ProcessStatus:
        """Wait, for as long as it takes, until the service has ended, noticed at once; return the status then."""

        async def look() -> ProcessStatus:
            return (await self.status([handle]))[handle.service]

        return await until_over(look, self._clock, _POLL_S)

    async def strays(self, handles: Collection[Handle]) -> Sequence[Stray]:
        """The units of this home that are up, and whose services have no handle here."""
        known = {handle.service for handle in handles if handle.supervisor == self.name}
        there = {
            s: path.name
            for s, path in units.of_home(units.unit_folder(self._manager.scope), self._rendering.whose())
            if s not in known
        }
        shown = await self._manager.show(list(there.values()), states.ASKED)
        systemctl = "systemctl --user" if self._manager.scope == "user" else "systemctl"
        up = {s: shown[name] for s, name in there.items() if name in shown and states.is_active(shown[name])}
        return [
            Stray(service=s, pid=states.number(seen, "MainPID"), end=f"{systemctl} stop {there[s]}")
            for s, seen in up.items()
        ]

    # --- stop ---------------------------------------------------------------------------------------------------

    async def stop(self, handle: Handle, launch: Launch) -> None:
        """Stop the unit: its signal, its time to act, then SIGKILL. Returns when no process of it is left.

        Does nothing when there is none. Raises Failed `cannot-kill` or `systemd-refused`, MachineLacks `not-allowed`;
        where root is at work in another user's home, Failed `foreign-unit` and MachineLacks `anothers-home`.
        """
        self._refuse_strange(handle.service)
        name = self._rendering.name(handle.service)
        shown = await self._shown(name)
        if states.is_due(shown) or states.pids_of(shown):
            answer = await self._stop(name, shown, launch)
            if answer.code:
                raise refused(self._manager.scope, "was not stopped", answer, name)
            if left := await kill_all(shown.get("ControlGroup", ""), self._clock, KILL_TIMEOUT_S):
                raise cannot_kill(handle.service, left)
            shown = await self._shown(name)
        if shown.get("ActiveState") == "failed":
            await self._manager.call("reset-failed", "--", name)

    async def _stop(self, name: str, shown: Properties, launch: Launch) -> Answer:
        """Let systemd stop a unit; what still runs after its time is killed by the kernel's own hand, which is quicker
        than any process forks."""
        given_s = states.seconds(shown, "TimeoutStopUSec")
        time_s = launch.stop_timeout_s if given_s is None else given_s
        job = asyncio.create_task(self._manager.call("stop", "--", name, timeout_s=60 + 4 * time_s))
        done, _ = await asyncio.wait([job], timeout=time_s + GRACE_S)
        if not done:
            await kill_all(shown.get("ControlGroup", ""), self._clock, KILL_TIMEOUT_S)
        return await job

    # --- logs and files -----------------------------------------------------------------------------------------

    def logs(self, service: str, lines: int) -> tuple[str, ...]:
        """The last lines of the present or last run, from the journal. Blocks some 20 ms.

        Where root asks for another user's home, which may keep them: of the run that systemd knows, and of that home's
        own units alone.
        """
        try:
            self._refuse_strange(service)
        except GpumodError:
            return ()
        name = self._rendering.name(service)
        words = ["systemctl", *(["--user"] if self._manager.scope == "user" else [])]
        answer = self._manager.run([*words, "show", "--property=InvocationID", "--value", "--", name])
        last = None if anothers(self._home) else states.ending_at(self._rendering.exit_file(service))
        return lines_of(self._manager, name, answer.out.strip() or (last.invocation if last else ""), lines)

    def log_path(self, service: str) -> None:
        """The journal keeps the log: there is no file."""

    def follow_command(self, service: str, lines: int) -> tuple[str, ...]:
        """A journalctl that goes on with what the service writes, over restarts of it too."""
        unit = "--user-unit" if self._manager.scope == "user" else "--unit"
        plain = ("journalctl", "--quiet", "--no-pager", "--output=cat", "--all")
        return (*plain, "--follow", f"--lines={lines}", f"{unit}={self._rendering.name(service)}")

    def service_dir(self, service: str) -> Path:
        """The service's own folder: what `{service_dir}` stands for."""
        return self._rendering.records().folder(service)

    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None:
        """Replace files of a service that may be running (the configuration of a host), each atomically."""
        self._rendering.prepare(service).write(service, files)
        for records in self._rendering.earlier_records():  # the setting `user` was another when it was started
            folder = records.folder(service)
            records.write(service, [file for file in files if (folder / file.name).is_file()])


def _is_read(shown: Properties, unit: Unit) -> bool:
    """True when the manager knows the unit as it stands on the disk."""
    known = shown.get("LoadState") == "loaded" and shown.get("FragmentPath") == str(unit.path)
    return known and shown.get("NeedDaemonReload") == "no"
