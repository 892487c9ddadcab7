"""Adopted containers: `docker start` and `docker stop` as they are, by their ids, and nothing else.

None is made, changed or removed, and its restart policy is its own affair. One that was made anew under the same name
has another id, and is another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumod.api import (
    Adopted,
    Clock,
    ContainerFacts,
    Failed,
    GpumodError,
    Handle,
    Launch,
    LaunchFile,
    MachineLacks,
    ProcessStatus,
    Settings,
    UsageError,
)
from gpumod_docker import engine, logs, looking
from gpumod_docker.containers import Containers
from gpumod_docker.gate import another_owner
from gpumod_docker.pids import proxies, tree_of, until_over
from gpumod_docker.states import Inspected, epoch_s, is_up, status_of, token_of, top_of

NAME = "adopted-container"
STOP_S, ENDLESS_S = 10, 3600
"""How long a container has to end where it does not say; and how long is waited where its time has no end."""
_ASK_S = 0.5
"""So often an engine is asked after a container without a process that can be watched."""
_EARLY_S = 0.1
"""The engine stamps a start a moment after the program has begun to write."""


class AdoptedContainers:
    """Implements :class:`gpumod.api.Supervisor` for containers that somebody else made, and finds these."""

    name = NAME

    def __init__(self, home: Path, home_id: str, settings: Settings, clock: Clock) -> None:
        self._home = home.absolute()
        self._home_id = home_id
        self._clock = clock
        self._met: dict[str, Adopted] = {}
        self._started: dict[str, float] = {}  # when a service was last started here, in seconds since the epoch

    # --- what can be adopted ------------------------------------------------------------------------------------

    def container(self, name: str) -> ContainerFacts | None:
        """The container of this name or id, up or down; None where there is none. Raises MachineLacks and Failed."""
        path = self._here(engine.socket_path())
        seen = looking.inspect(path, name)
        return looking.facts_of(seen, path) if seen is not None else None

    def containers(self) -> tuple[ContainerFacts, ...]:
        """All that are up. Raises MachineLacks and Failed."""
        path = self._here(engine.socket_path())
        return tuple(looking.facts_of(seen, path) for seen in looking.all_up(path))

    def has(self, adopted: Adopted) -> bool:
        """Whether the container is still there, whatever it is called now. Raises MachineLacks and Failed."""
        path = self._socket(adopted)
        engine.reach(path)  # before the SDK is imported
        return looking.inspect(path, str(adopted.container)) is not None

    def _here(self, path: Path) -> Path:
        """The socket `path`, of an engine whose processes are this machine's. Raises MachineLacks."""
        engine.reach(path)  # before the SDK is imported
        engine.refuse_elsewhere(Containers(path, self._home_id).info())
        return path

    # --- which one it is ----------------------------------------------------------------------------------------

    def meet(self, handle: Handle) -> None:
        """Remember which container a service is."""
        self._adopted(handle)

    def _adopted(self, handle: Handle) -> Adopted:
        adopted = handle.launched.adopted
        if adopted is None or adopted.container is None:
            raise UsageError(
                "not-adopted",
                f"service {handle.service!r} was not adopted, so {self.name} cannot keep it",
                hint=f"gpumod service edit {handle.service} --unset run_with",
            )
        self._met[handle.service] = adopted
        return adopted

    def _socket(self, adopted: Adopted) -> Path:
        """Where its engine listens; of adoptions that do not say, the one that is in use. Raises MachineLacks, also
        where another user's home has root speak to what that user may have put there."""
        if adopted.engine is None:
            return engine.socket_path()
        path, owner = Path(adopted.engine), another_owner(self._home)
        if owner is not None and not _is_in_use(path):
            raise MachineLacks(
                "anothers-home",
                f"the engine at {path} is not asked by root: a home of user {owner} names it",
                hint=f"run gpumod as that user; or DOCKER_HOST={engine.SCHEME}{path}, if it is to be trusted",
            )
        return path

    def _look_up(self, handle: Handle) -> tuple[Path, Inspected | None]:
        """The socket of its engine, and what that tells of the container; None where it has it no more."""
        adopted = self._adopted(handle)
        path = self._socket(adopted)
        return path, looking.inspect(path, str(adopted.container))

    def _there(self, handle: Handle) -> tuple[Path, Inspected]:
        """As :meth:`_look_up`; raises Failed `container-gone`."""
        path, seen = self._look_up(handle)
        if seen is None:
            raise _gone(path, handle)
        return path, seen

    async def may(self, handles: Sequence[Handle]) -> None:
        """Raise MachineLacks where an engine cannot be asked, and `anothers-home` where root would start and stop what
        another user's home names."""
        owner = another_owner(self._home)
        for handle in handles if owner is not None else ():
            raise MachineLacks(
                "anothers-home",
                f"the container of {handle.service} is not started or stopped by root: its home is of user {owner}",
                why=f"user {owner} says in {self._home} which container is meant, and need not have root's rights",
                hint="run gpumod as that user, who may ask the engine when in the group docker",
            )
        for path in {self._socket(self._adopted(handle)) for handle in handles}:
            engine.reach(path)

    def check(self, handle: Handle, launch: Launch) -> None:
        """Raise Failed `container-gone` for one that is no longer there, MachineLacks where its engine is not."""
        self._here(self._socket(self._adopted(handle)))
        self._there(handle)

    # --- start and stop -----------------------------------------------------------------------------------------

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        """Have the container started as it is; nothing of `launch` and `env` reaches it.

        Raises MachineLacks, Failed `container-gone`, and `engine-refused` with what the engine says.
        """
        await self.may([handle])
        starting = asyncio.ensure_future(asyncio.to_thread(self._start, handle))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # a thread cannot be cancelled: whoever goes back must find what it is about to start
            await asyncio.wait([starting])
            raise

    def _start(self, handle: Handle) -> Mapping[str, Any]:
        path = self._here(self._socket(self._adopted(handle)))
        container = str(self._there(handle)[1]["Id"])
        self._started[handle.service] = time.time()
        with engine.spoken(path, f"start the {handle.launched.adopted}", engine.SLOW_S) as asked:
            asked.start(container)
        return token_of(self._there(handle)[1], str(path))

    async def stop(self, handle: Handle, launch: Launch) -> None:
        """Stop the container by its own signal and in its own time, as `docker stop` does.

        Raises MachineLacks, Failed `cannot-kill` and what the engine says.
        """
        await self.may([handle])
        path, seen = await asyncio.to_thread(self._look_up, handle)
        if seen is None or not is_up(seen):
            return
        await asyncio.to_thread(self._stop, path, handle, seen)

    def _stop(self, path: Path, handle: Handle, seen: Inspected) -> None:
        said = (seen.get("Config") or {}).get("StopTimeout")
        patience_s = STOP_S if said is None else ENDLESS_S if said < 0 else int(said)
        with engine.spoken(path, f"stop the {handle.launched.adopted}", patience_s + engine.SLOW_S) as asked:
            asked.stop(str(seen["Id"]))  # without a time: it has its own
        after = looking.inspect(path, str(seen["Id"]))
        if after is not None and is_up(after):
            left = tree_of(top_of(after)).pids
            raise Failed(
                "cannot-kill",
                f"the {handle.launched.adopted} of service {handle.service} does not end",
                why=f"the engine says that it is up; its processes: {', '.join(map(str, left[:10])) or 'none'}",
                hint="somebody may have started it again; else: journalctl -u docker",
                pids=list(left[:100]),
            )

    # --- status -------------------------------------------------------------------------------------------------

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        """The status of each, by service id: of the very container that was adopted, never of one with its name."""
        return await asyncio.to_thread(self._look, handles)

    def _look(self, handles: Sequence[Handle]) -> dict[str, ProcessStatus]:
        by_engine: dict[str | None, list[Handle]] = {}
        for handle in handles:
            by_engine.setdefault(self._adopted(handle).engine, []).append(handle)
        statuses: dict[str, ProcessStatus] = {}
        for mine in by_engine.values():
            try:
                statuses |= self._look_at(self._socket(self._adopted(mine[0])), mine)
            except GpumodError as error:
                if len(by_engine) == 1:
                    raise
                away = ProcessStatus(alive=True, detail=error.info.message)  # the others' engines can be asked
                statuses |= {handle.service: away for handle in mine}
        return statuses

    def _look_at(self, path: Path, handles: Sequence[Handle]) -> dict[str, ProcessStatus]:
        found = {handle.service: self._look_up(handle)[1] for handle in handles}
        ports = {s: looking.published(seen).values() for s, seen in found.items() if seen is not None and is_up(seen)}
        passing = proxies({port for some in ports.values() for port in some})
        statuses = {}
        for handle in handles:
            seen = found[handle.service]
            mine = [pid for port in ports.get(handle.service, ()) for pid in passing[port]]
            status = status_of(handle, seen, str(path), mine)
            gone = "the container that was adopted is not there any more" if seen is None else ""
            statuses[handle.service] = status.model_copy(update={"detail": gone}) if gone else status
        return statuses

    async def exited(self, handle: Handle) -> ProcessStatus:
        """Wait, for as long as it takes, until the container has ended; return the status then."""

        async def look() -> ProcessStatus:
            return (await self.status([handle]))[handle.service]

        return await until_over(look, self._clock, _ASK_S)

    # --- logs and files -----------------------------------------------------------------------------------------

    def logs(self, service: str, lines: int) -> tuple[str, ...]:
        """The last lines of the present or last run; none where its engine keeps none. Blocking."""
        if service not in self._met or another_owner(self._home) is not None:
            return ()  # what another user's home names need not be that user's to read
        path = self._socket(self._met[service])
        seen = looking.inspect(path, str(self._met[service].container))
        if seen is None or ((seen.get("HostConfig") or {}).get("LogConfig") or {}).get("Type") == "none":
            return ()
        try:
            return logs.last_lines(path, str(seen["Id"]), self._since(service, seen), lines)
        except Failed as error:
            if error.code != "engine-refused":
                raise
            return ()  # its log goes where the engine cannot read it

    def _since(self, service: str, seen: Inspected) -> float:
        """From when on its log is the last run's. Of one that was started here, and by its engine again since then,
        the runs between count, too: they tell why."""
        restarted = bool(seen.get("RestartCount")) and service in self._started
        return self._started[service] if restarted else _began(seen)

    def log_path(self, service: str) -> None:
        """The engine keeps the log: there is no file of ours."""

    def follow_command(self, service: str, lines: int) -> tuple[str, ...]:
        """The engine's own program, which goes on with what the container writes."""
        adopted = self._met.get(service)
        path = self._socket(adopted) if adopted else engine.socket_path()
        container = str(adopted.container) if adopted else service
        return ("docker", "-H", f"{engine.SCHEME}{path}", "logs", "--follow", f"--tail={lines}", container)

    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None:
        """Refused: nothing of somebody else's is written."""
        raise Failed(
            "adopted",
            f"{service} was adopted: its files are somebody else's, and are not written",
            hint=f"gpumod service release {service}, and define one of gpumod's own",
        )


def _is_in_use(path: Path) -> bool:
    try:
        return engine.socket_path() == path
    except MachineLacks:
        return False


def _began(seen: Inspected) -> float:
    """From when on its log is the last run's: while that runs, when the run before had ended."""
    state = seen["State"]
    before = epoch_s(state.get("FinishedAt", "")) if top_of(seen) else None
    began = epoch_s(state.get("StartedAt", ""))
    return before or (began - _EARLY_S if began else logs.FROM_THE_FIRST)


def _gone(path: Path, handle: Handle) -> Failed:
    adopted, service = handle.launched.adopted, handle.service
    name = str(adopted.name if adopted else "")
    release = f"gpumod service release {service}"
    if looking.inspect(path, name) is None:
        why, hint = "", f"docker -H {engine.SCHEME}{path} ps -a shows what is there; {release}"
    else:
        why = f"; the one that is called {name} now was made anew, and is another"
        where = "" if _is_in_use(path) else f"{engine.VARIABLE}={engine.SCHEME}{path} "
        hint = f"{release}; {where}gpumod service adopt {name} --container --id {service}"
    return Failed(
        "container-gone",
        f"the {adopted} of service {service} is not there any more",
        why=f"the engine at {path} has no container of this id{why}",
        hint=hint,
    )
