"""The process supervisor: a detached process per service, with a shim that stays with it.

gpumod may be killed at any instant: services go on, and the next gpumod finds them by their token (pids with start
times), by the shim's record, or by the nonce in their environment, in this order. Every signal goes to a process whose
start time was checked.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gpumod.adapters.asking import Asker
from gpumod.adapters.launches import already_running, cannot_kill, refuse_anothers
from gpumod.adapters.process.forking import Nursery
from gpumod.adapters.process.launching import not_started, orders, run_shim
from gpumod.adapters.process.own_unit import refuse_ending_unit
from gpumod.adapters.process.proc import (
    Proc,
    boot_id,
    by_nonce,
    ended,
    group,
    send,
    start_ticks,
    trees,
)
from gpumod.adapters.process.records import Records
from gpumod.adapters.process.tokens import is_token, main_process, shim_process, token_of
from gpumod.adapters.service_user import refuse_other_user
from gpumod.domain.errors import MachineLacks, UsageError
from gpumod.domain.run import Handle
from gpumod.domain.settings import Settings
from gpumod.ports import Answer, Clock, Launch, LaunchFile, ProcessStatus
from gpumod.ports.units import Stray

KILL_TIMEOUT_S = 10.0
_POLL_S = 0.005
_EXIT_RECORD_S = 2.0


class ProcessSupervisor:
    """Implements :class:`gpumod.ports.Supervisor` with plain processes."""

    name = "process"

    def __init__(
        self, home: Path, home_id: str, settings: Settings, clock: Clock, *, kill_timeout_s: float = KILL_TIMEOUT_S
    ) -> None:
        """`kill_timeout_s` is how long processes may take to end after SIGKILL before `stop` gives up."""
        del home_id  # units and containers need it for their names; a process is known by its nonce
        self._kill_timeout_s = kill_timeout_s
        self._settings = settings
        self._clock = clock
        self._home = home.absolute()
        self._records = Records(self._home)
        self._nursery = Nursery(self._home)
        self._asker = Asker(settings)

    # --- start --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def prepared(self, launches: Sequence[tuple[Handle, Launch]]) -> AsyncIterator[None]:
        """One nursery for all starts of a run, begun while the run is journalled."""
        with self._nursery.held():
            opening = asyncio.create_task(asyncio.to_thread(self._nursery.open)) if launches else None
            try:
                yield
            finally:
                if opening:
                    await asyncio.gather(opening, return_exceptions=True)

    def check(self, handle: Handle, launch: Launch) -> None:
        """Raise what :meth:`start` would raise before anything runs."""
        refuse_anothers(self._home, handle.service)
        refuse_other_user(self._settings, self._home, handle.service)
        orders(handle, launch, {}, self._records, self._settings)

    def outlives(self, service: str) -> None:
        """Raise MachineLacks `ends-with-unit` where the unit that gpumod runs in would end it: no way back asks."""
        refuse_ending_unit(self._settings, service)

    async def may(self, handles: Sequence[Handle]) -> None:
        """Raise MachineLacks `anothers-home` where root would end what another user's home names."""
        for handle in handles:
            refuse_anothers(self._home, handle.service, stop=True)

    async def ask(self, service: str, launch: Launch, question: Sequence[str]) -> Answer | None:
        """What the program of `launch` answers; not asked is what root would run for another user's home, or in place
        of the user whom the settings name."""
        with suppress(MachineLacks, UsageError):  # its start says what is wrong
            refuse_anothers(self._home, service)
            refuse_other_user(self._settings, self._home, service)
            return await self._asker.ask(service, launch, question, self._records.folder(service))
        return None

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        """Start the service detached and return its token, once the program has really been executed.

        Raises MachineLacks `missing-binary` or `anothers-home`, Failed `missing-folder`, `cannot-execute`,
        `already-running` or `cannot-start`, UsageError for a launch that no process can have. Nothing runs after an
        error.
        """
        service = handle.service
        refuse_anothers(self._home, service)
        refuse_other_user(self._settings, self._home, service)
        last = self._records.last_run(service)
        if last is not None and not await self._ends(last):
            raise already_running(service, last["pid"])
        await self._end_left(handle)
        told = orders(handle, launch, env, self._records, self._settings)
        self._records.prepare(service)
        self._records.write(service, launch.files)
        starting = asyncio.ensure_future(asyncio.to_thread(run_shim, self._nursery, handle.nonce, told))
        try:
            answer = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # a thread cannot be cancelled: whoever goes back must find what it is about to start
            await asyncio.wait([starting])
            raise
        if is_token(answer):
            return answer
        raise not_started(service, told["exe"], answer)

    async def _ends(self, token: Mapping[str, Any]) -> bool:
        """True when the run is over, or its main process is and the shim has soon ended what that left behind."""
        return not main_process(token).alive and await ended(shim_process(token), self._kill_timeout_s, self._clock)

    async def _end_left(self, handle: Handle) -> None:
        """End what the last run left when its shim was killed too: nobody would know these processes any more."""
        last = self._records.last_handle(handle)
        if last is None or self._is_over(last):
            return
        try:
            await self._kill(last, self._found(last))
        except PermissionError:
            raise cannot_kill(last.service, [process.pid for process in self._found(last)]) from None

    # --- status -------------------------------------------------------------------------------------------------

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        """The status of each handle, by service id. A few ms for 50 services, unless one of them lost its shim."""
        found = self._survey(handles)
        return {handle.service: await self._status(handle, *found[handle.service]) for handle in handles}

    def _survey(self, handles: Sequence[Handle]) -> dict[str, tuple[Mapping[str, Any] | None, set[int]]]:
        """The token and the pids of each, by service id: of the shim's descendants, else of whatever can be found."""
        tokens = {handle.service: self._token(handle) for handle in handles}
        lost = [handle for handle in handles if not _has_shim(tokens[handle.service]) and not self._is_over(handle)]
        strays = by_nonce([handle.nonce for handle in lost]) if lost else {}
        for handle in lost:
            if tokens[handle.service] is None:
                tokens[handle.service] = token_of(strays[handle.nonce])
        roots = {handle.service: _roots(tokens[handle.service], strays.get(handle.nonce, ())) for handle in handles}
        below = trees({pid for pids in roots.values() for pid in pids})
        found = {}
        for service, token in tokens.items():
            pids = {pid for root in roots[service] for pid in below[root]}
            found[service] = (token, pids if _has_shim(token) else pids | roots[service])
        return found

    async def _status(self, handle: Handle, token: Mapping[str, Any] | None, pids: set[int]) -> ProcessStatus:
        # Without a token the shim is just starting: alive, and its main process not there yet.
        main = main_process(token) if token else None
        alive = main.alive if main else bool(pids)
        code = None if alive else await self._exit_code(handle, token)
        return ProcessStatus(
            alive=alive,
            pid=main.pid if main and alive else None,
            pids=tuple(sorted(pid for pid in pids if start_ticks(pid) is not None)),  # zombies are dead
            started_at=token.get("started_at") if token else None,
            exit_code=code,
            token=token or {},
        )

    async def _exit_code(self, handle: Handle, token: Mapping[str, Any] | None) -> int | None:
        """The exit code as the shim wrote it down, which it does as soon as it has run again."""
        give_up = self._clock.monotonic() + _EXIT_RECORD_S
        while (code := self._records.exit(handle.service, handle.nonce)[0]) is None and _has_shim(token):
            if self._clock.monotonic() >= give_up:
                break
            await self._clock.sleep(_POLL_S)
        return code

    async def exited(self, handle: Handle) -> ProcessStatus:
        """Wait, for as long as it takes, until the main process has ended, noticed at once; return the status then."""
        while True:
            status = (await self.status([handle]))[handle.service]
            if not status.alive:
                return status
            if is_token(status.token):
                await ended(main_process(status.token), None, self._clock)
            else:
                await self._clock.sleep(_POLL_S)

    def _token(self, handle: Handle) -> Mapping[str, Any] | None:
        return handle.token if is_token(handle.token) else self._records.run(handle.service, handle.nonce)

    async def strays(self, handles: Collection[Handle]) -> Sequence[Stray]:
        """What lives of the last run of each service, where none of `handles` is of that run."""
        known = {handle.nonce for handle in handles}
        found = []
        for service, nonce, token in self._records.last_runs():
            if nonce in known:
                continue
            main = main_process(token)
            # the shim takes all along; without it each has to be named
            enders = [shim_process(token)] if _has_shim(token) else by_nonce([nonce])[nonce]
            if enders:
                pid = main.pid if main.alive else enders[0].pid
                end = " ".join(str(process.pid) for process in enders)
                found.append(Stray(service=service, pid=pid, end=f"kill {end}"))
        return found

    def _is_over(self, handle: Handle) -> bool:
        """True when the run is known to have left nothing: its shim said so, or the machine was booted since."""
        return self._records.exit(handle.service, handle.nonce)[1] or handle.token.get("boot", boot_id()) != boot_id()

    # --- stop ---------------------------------------------------------------------------------------------------

    async def stop(self, handle: Handle, launch: Launch) -> None:
        """End the whole tree: the launch's signal, its time to act, then SIGKILL until nothing is left.

        Returns when no process of the tree lives; does nothing when there is none. Raises Failed `cannot-kill`,
        MachineLacks `anothers-home`.
        """
        refuse_anothers(self._home, handle.service, stop=True)
        token = self._token(handle)  # the tree is not looked at first: it may grow faster than one can look
        try:
            if token and _has_shim(token):
                await self._stop_by_shim(handle, shim_process(token), launch)
            if not self._is_over(handle):  # there was no shim, or it was killed before it was done
                await self._stop_orphans(handle, launch)
        except PermissionError:
            raise cannot_kill(handle.service, [process.pid for process in self._found(handle)]) from None

    async def _stop_by_shim(self, handle: Handle, shim: Proc, launch: Launch) -> None:
        """Let the shim end its descendants. It would go on alone if gpumod were killed meanwhile."""
        send(shim, signal.Signals[launch.stop_signal])
        if await ended(shim, launch.stop_timeout_s, self._clock):
            return
        send(shim, signal.SIGUSR1)
        if await ended(shim, self._kill_timeout_s, self._clock):
            return
        # It did not manage, or hangs itself (it was stopped): from here, then.
        await self._kill(handle, self._found(handle))
        send(shim, signal.SIGKILL)
        if not await ended(shim, self._kill_timeout_s, self._clock):
            raise cannot_kill(handle.service, [shim.pid])

    async def _stop_orphans(self, handle: Handle, launch: Launch) -> None:
        """Stop what lost its shim: ask the main process's group, wait, then kill whatever can be found."""
        token, _ = self._survey([handle])[handle.service]
        found = self._found(handle)
        if token and (main := main_process(token)).alive:
            for process in found:
                if group(process.pid) == main.pid:
                    send(process, signal.Signals[launch.stop_signal])
                    send(process, signal.SIGCONT)
            await ended(main, launch.stop_timeout_s, self._clock)
        await self._kill(handle, _merged(found, self._found(handle)))

    async def _kill(self, handle: Handle, found: Sequence[Proc]) -> None:
        """SIGKILL what was found and what appears meanwhile, until none is left."""
        give_up = self._clock.monotonic() + self._kill_timeout_s
        pause = _POLL_S
        while True:
            for process in found:
                send(process, signal.SIGKILL)
            found = [process for process in _merged(found, self._found(handle)) if process.alive]
            if not found:
                return
            if self._clock.monotonic() >= give_up:
                raise cannot_kill(handle.service, [process.pid for process in found])
            await self._clock.sleep(pause)
            pause = min(2 * pause, 0.2)

    def _found(self, handle: Handle) -> list[Proc]:
        """Every living process of the tree, without the shim, with its start time."""
        _, pids = self._survey([handle])[handle.service]
        started = {pid: start_ticks(pid) for pid in pids}
        return [Proc(pid, ticks) for pid, ticks in started.items() if ticks is not None]

    # --- logs and files -----------------------------------------------------------------------------------------

    def logs(self, service: str, lines: int) -> tuple[str, ...]:
        """The last lines of the present or last run; none when it never ran."""
        return self._records.last_lines(service, lines)

    def log_path(self, service: str) -> Path:
        """Where the log is, or will be."""
        return self._records.log(service)

    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None:
        """Replace files of a service that may be running (the configuration of a host), each atomically."""
        self._records.prepare(service)
        self._records.write(service, files)


def _has_shim(token: Mapping[str, Any] | None) -> bool:
    return token is not None and is_token(token) and shim_process(token).alive


def _roots(token: Mapping[str, Any] | None, strays: Sequence[Proc]) -> set[int]:
    """Where the tree of a service begins: at its shim, else at every process of it that can be found."""
    if token and _has_shim(token):
        return {token["shim_pid"]}
    main = main_process(token) if token else None
    return {process.pid for process in strays} | ({main.pid} if main and main.alive else set())


def _merged(one: Sequence[Proc], other: Sequence[Proc]) -> list[Proc]:
    return list(dict.fromkeys([*one, *other]))
