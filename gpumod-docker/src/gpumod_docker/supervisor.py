"""The container supervisor: a container per service, kept by a Docker Engine on this machine.

gpumod may be killed at any instant: the engine keeps the containers, and the next gpumod finds them by their labels. A
container of this home and service *is* the service. It stays when it is stopped, with what it wrote, and is made anew
only when its whole definition differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumod.api import (
    Allocation,
    ChecksVariables,
    Clock,
    Driver,
    Failed,
    Handle,
    Launch,
    LaunchFile,
    Left,
    MachineLacks,
    ProcessStatus,
    Service,
    Settings,
    Stray,
    UsageError,
)
from gpumod_docker import engine, images, logs
from gpumod_docker.containers import Containers, refuse_engines_own
from gpumod_docker.definition import Config, Wanted, check_words, config_of, given_by_cdi, gpus_of, name_of, uses_folder
from gpumod_docker.environment import GIVEN, refuse_names
from gpumod_docker.folder import ServiceFolder
from gpumod_docker.gate import another_owner, refuse_anothers, refuse_unsafe
from gpumod_docker.inside import view
from gpumod_docker.mounts import Volume, missing_folder, refuse_source
from gpumod_docker.options import ContainerOptions, container_options
from gpumod_docker.pids import ended, is_alive, proxies, tree_of, until_over
from gpumod_docker.states import Inspected, is_up, status_of, token_of

KILL_TIMEOUT_S = 10.0
RUN, PULL = "run.json", "pull.json"
_POLL_S = 0.01


class DockerSupervisor:
    """Implements :class:`gpumod.api.Supervisor` with containers."""

    name = "docker"

    def __init__(self, home: Path, home_id: str, settings: Settings, clock: Clock) -> None:
        self._home = home.absolute()
        self._home_id = home_id
        self._settings = settings
        self._clock = clock

    # --- what is defined ----------------------------------------------------------------------------------------

    def check_service(self, service: Service, settings: Settings) -> None:
        """Raise ValueError for a service that would not be started in a container as it is defined."""
        options = container_options(service)
        try:
            self._sources(view(service, settings, options).volumes)
        except ValueError as error:
            raise ValueError(f"service {service.id!r}: {error}") from error

    def check_variables(self, service: Service, variables: Mapping[str, str]) -> None:
        """Raise ValueError for a variable that no container is given."""
        try:
            refuse_names(variables)
        except ValueError as error:
            raise ValueError(f"service {service.id!r}: {error}") from error

    def launch(self, driver: Driver, service: Service, allocation: Allocation, settings: Settings) -> Launch:
        """How `driver` launches the service as things are in its container; its ports are this machine's."""
        self.check_service(service, settings)
        options = container_options(service)
        inner = view(service, settings, options)
        launch = driver.launch(inner.service, allocation, inner.settings)
        refuse_names(launch.env)
        if clash := sorted(n for n, text in options.environment.items() if launch.env.get(n, text) != text):
            names = ", ".join(clash)
            raise ValueError(f"service {service.id!r}: {names} of its container's environment is its driver's to set")
        if isinstance(driver, ChecksVariables):
            driver.check_variables(inner.service, options.environment)
        argv = (options.program, *launch.argv[1:]) if options.program else launch.argv
        return launch.model_copy(update={"argv": argv, "ports": tuple(port.host for port in inner.ports)})

    def _sources(self, volumes: Sequence[Volume]) -> tuple[Volume, ...]:
        """The volumes with where their sources really are. Raises ValueError for what may not be mounted."""
        keep_out = self._keep_out()
        return tuple(v if v.is_named else v._replace(source=str(refuse_source(v.source, keep_out))) for v in volumes)

    def _keep_out(self) -> tuple[Path, ...]:
        try:
            return (self._home, engine.socket_path())
        except MachineLacks:
            return (self._home,)

    def _wanted(self, handle: Handle, launch: Launch, told: Mapping[str, str]) -> tuple[Wanted, Config]:
        """What is to run, and a first draft of its definition.

        Raises UsageError, Failed `missing-folder`, MachineLacks `anothers-home`.
        """
        refuse_anothers(self._home, handle.service)
        service, folder = handle.launched, ServiceFolder(self._home, handle.service)
        try:
            options = container_options(service)
            inner = view(service, self._settings, options)
            volumes = self._sources(inner.volumes)
            refuse_names({*launch.env, *told} - GIVEN)
        except ValueError as error:
            raise UsageError(
                "bad-container",
                f"{service.id} is not started in a container as it is defined",
                why=str(error),
                hint=f"gpumod service edit {service.id}",
            ) from error
        wanted = Wanted(service.id, launch, options, volumes, inner.ports, service.port, told)
        check_words(wanted)
        for file in launch.files:
            folder.check_name(file)
        for volume in volumes:
            if not volume.is_named and not Path(volume.source).exists():
                raise missing_folder(service.id, volume)
        return wanted, self._config(wanted, cdi=False)

    def draft(self, handle: Handle, launch: Launch, told: Mapping[str, str]) -> Config:
        """What the engine would be given for this start, GPUs by NVIDIA's runtime. Raises as :meth:`check`."""
        return self._wanted(handle, launch, told)[1]

    def _config(self, wanted: Wanted, *, cdi: bool) -> Config:
        folder = ServiceFolder(self._home, wanted.service).path
        config = config_of(wanted, folder, self._settings, cdi)
        refuse_unsafe(wanted.service, config, folder, self._keep_out(), self._settings.bind_host)
        return config

    # --- start --------------------------------------------------------------------------------------------------

    def reach(self) -> None:
        """Raise MachineLacks where no engine can be asked."""
        engine.reach(engine.socket_path())

    def check(self, handle: Handle, launch: Launch) -> None:
        """Raise what :meth:`start` would raise before anything runs, as far as it can be known without a pull."""
        wanted, config = self._wanted(handle, launch, {})
        self.reach()
        socket = engine.socket_path()
        info = Containers(socket, self._home_id).info()
        engine.refuse_elsewhere(info)
        refuse_engines_own(wanted.service, config, info)
        images.refuse_missing(socket, wanted.options)

    async def fetch(self, handle: Handle, tell: Callable[[str], None]) -> None:
        """Pull the service's image as its option `pull` says. Raises MachineLacks `no-image`, Failed `pull-failed`."""
        options = container_options(handle.launched)
        await self._image(engine.socket_path(), options, ServiceFolder(self._home, handle.service), tell, newest=True)

    async def start(self, handle: Handle, launch: Launch, env: Mapping[str, str]) -> Mapping[str, Any]:
        """Start the service's container and return its token, once its program has really been executed.

        Pulls the image first where it is still not there. Nothing runs after an error.
        """
        wanted, _ = self._wanted(handle, launch, env)
        socket = engine.socket_path()
        containers = Containers(socket, self._home_id)
        folder = ServiceFolder(self._home, handle.service)
        there = await asyncio.to_thread(containers.inspect, handle.service)
        if there is not None and is_up(there):
            raise _already_running(handle.service, tree_of(int(there["State"]["Pid"])).main)
        image_id = await self._image(socket, wanted.options, folder)
        starting = asyncio.ensure_future(
            asyncio.to_thread(self._start, containers, folder, handle.nonce, wanted, image_id)
        )
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            # a thread cannot be cancelled: whoever goes back must find what it is about to start
            await asyncio.wait([starting])
            raise

    async def _image(
        self,
        socket: Path,
        options: ContainerOptions,
        folder: ServiceFolder,
        tell: Callable[[str], None] = lambda _: None,
        *,
        newest: bool = False,
    ) -> str:
        loop, told = asyncio.get_running_loop(), ""
        with folder.noting(PULL) as note:

            def hear(text: str) -> None:
                nonlocal told
                if text != told:
                    told = text
                    with contextlib.suppress(RuntimeError):  # it pulls in a thread of its own, which may be left behind
                        loop.call_soon_threadsafe(tell, text)
                    with contextlib.suppress(Failed):  # a full disk is the engine's to tell
                        note({"text": text, "pid": os.getpid()})

            return await images.have(socket, options, hear, newest=newest)

    def _start(
        self, containers: Containers, folder: ServiceFolder, nonce: str, wanted: Wanted, image_id: str
    ) -> Mapping[str, Any]:
        gpus, info = gpus_of(wanted.told), containers.info()
        config = self._config(wanted, cdi=bool(gpus) and given_by_cdi(wanted.options.gpu_access, gpus, info))
        containers.refuse_volumes(wanted.service, config)
        refuse_engines_own(wanted.service, config, info)
        folder.prepare()
        folder.write(wanted.launch.files)
        if uses_folder(wanted.launch, wanted.told):
            folder.share()
        container = containers.make(wanted.service, nonce, config, image_id)
        folder.note(RUN, {"container": container, "since": time.time()})
        return token_of(containers.start(wanted.service, container), str(containers.path))

    # --- status -------------------------------------------------------------------------------------------------

    async def status(self, handles: Sequence[Handle]) -> Mapping[str, ProcessStatus]:
        """The status of each handle, by service id; each is asked of the engine that it was started at."""
        by_engine: dict[Path, list[Handle]] = {}
        for handle in handles:
            by_engine.setdefault(_engine_of(handle), []).append(handle)
        statuses: dict[str, ProcessStatus] = {}
        for path, mine in by_engine.items():
            statuses |= await asyncio.to_thread(self._look, path, mine)
        return statuses

    def _look(self, path: Path, handles: Sequence[Handle]) -> dict[str, ProcessStatus]:
        containers = Containers(path, self._home_id)
        seen = {handles[0].service: containers.inspect(handles[0].service)} if len(handles) == 1 else containers.all()
        up = [s for s, one in seen.items() if one is not None and is_up(one)]
        ports = {service: _ports_of(seen[service]) for service in up}
        passing = proxies({port for some in ports.values() for port in some})
        return {
            handle.service: status_of(
                handle,
                seen.get(handle.service),
                str(path),
                [pid for port in ports.get(handle.service, ()) for pid in passing[port]],
            )
            for handle in handles
        }

    async def exited(self, handle: Handle) -> ProcessStatus:
        """Wait, for as long as it takes, until the service has ended, noticed at once; return the status then."""

        async def look() -> ProcessStatus:
            return (await self.status([handle]))[handle.service]

        return await until_over(look, self._clock, _POLL_S)

    async def strays(self, handles: Collection[Handle]) -> Sequence[Stray]:
        """The containers of this home that are up, and whose services have no handle here."""
        path = engine.socket_path()
        engine.reach(path)  # before the SDK is imported
        known = {handle.service for handle in handles if handle.supervisor == self.name}
        seen = await asyncio.to_thread(Containers(path, self._home_id).all)
        return [
            Stray(
                service=service,
                pid=tree_of(int(one["State"]["Pid"])).main,
                end=f"docker -H {engine.SCHEME}{path} stop {name_of(service, self._home_id)}",
            )
            for service, one in seen.items()
            if service not in known and is_up(one)
        ]

    # --- stop ---------------------------------------------------------------------------------------------------

    async def may(self, handles: Sequence[Handle]) -> None:
        """Raise MachineLacks `anothers-home` where root would end what another user's home names."""
        for handle in handles:
            refuse_anothers(self._home, handle.service, stop=True)

    async def stop(self, handle: Handle, launch: Launch) -> None:
        """Stop the container: the launch's signal, its time to act, then SIGKILL. Returns when nothing of it is left.

        Does nothing when there is none. Raises Failed `cannot-kill`, MachineLacks `anothers-home`.
        """
        refuse_anothers(self._home, handle.service, stop=True)
        containers = Containers(_engine_of(handle), self._home_id)
        seen = await asyncio.to_thread(containers.inspect, handle.service)
        if seen is None or not is_up(seen):
            return
        container, top = str(seen["Id"]), int(seen["State"]["Pid"])
        if seen["State"].get("Paused"):
            await asyncio.to_thread(containers.unpause, container)
        for name in (launch.stop_signal, "SIGCONT"):  # what was stopped hears it too
            await asyncio.to_thread(containers.signal, container, name)
        if not await ended(top, launch.stop_timeout_s):
            await asyncio.to_thread(containers.signal, container, "SIGKILL")
            await ended(top, KILL_TIMEOUT_S)
        give_up = self._clock.monotonic() + KILL_TIMEOUT_S
        while (seen := await asyncio.to_thread(containers.inspect, handle.service)) is not None and is_up(seen):
            if self._clock.monotonic() > give_up:
                raise _cannot_kill(handle.service, tree_of(top).pids)
            await self._clock.sleep(_POLL_S)

    async def forget(self, service: str) -> bool:
        """Remove the container of a service, with what it wrote, and what was noted of it. False where it is up.

        Raises MachineLacks `anothers-home` as :meth:`stop` does."""
        refuse_anothers(self._home, service, stop=True)
        self.reach()  # before the SDK is imported: this is asked at every removal of a service, whoever kept it
        gone = await asyncio.to_thread(Containers(engine.socket_path(), self._home_id).remove, service)
        if gone:
            ServiceFolder(self._home, service).forget()
        return gone

    def left(self) -> Mapping[str, Left]:
        """The containers of this home that are down, by service. Blocking; raises MachineLacks and Failed."""
        path = engine.socket_path()
        engine.reach(path)  # before the SDK is imported
        seen = Containers(path, self._home_id).all()
        names = {service: name_of(service, self._home_id) for service, one in seen.items() if not is_up(one)}
        rm = f"docker -H {engine.SCHEME}{path} rm"
        return {service: Left(what=f"container {name}", end=f"{rm} {name}") for service, name in names.items()}

    # --- logs and files -----------------------------------------------------------------------------------------

    def logs(self, service: str, lines: int) -> tuple[str, ...]:
        """The last lines of the present or last run; while its image is pulled, how that gets on. Blocking."""
        if another_owner(self._home) is not None:
            return ()  # what another user's home names need not be that user's to read
        folder = ServiceFolder(self._home, service)
        pulling = folder.noted(PULL)
        if isinstance(pulling.get("pid"), int) and is_alive(pulling["pid"]):
            return (str(pulling.get("text", "")),)[-lines:] if lines else ()
        path = engine.socket_path()
        seen = Containers(path, self._home_id).inspect(service)
        if seen is None:
            return ()
        since = logs.since_of(folder.noted(RUN), str(seen["Id"]))
        return logs.last_lines(path, str(seen["Id"]), since, lines)

    def log_path(self, service: str) -> None:
        """The engine keeps the log: there is no file of ours."""

    def follow_command(self, service: str, lines: int) -> tuple[str, ...]:
        """The engine's own program, which goes on with what the container writes."""
        where, note = f"{engine.SCHEME}{engine.socket_path()}", ServiceFolder(self._home, service).noted(RUN)
        since = f"--since={note.get('since', logs.FROM_THE_FIRST):f}"
        return ("docker", "-H", where, "logs", "--follow", since, f"--tail={lines}", name_of(service, self._home_id))

    def write_files(self, service: str, files: Sequence[LaunchFile]) -> None:
        """Replace files of a service that may be running (the configuration of a host), each atomically.

        Raises what :meth:`start` raises where root may not write here."""
        refuse_anothers(self._home, service)
        folder = ServiceFolder(self._home, service)
        folder.prepare()
        folder.write(files)
        folder.share()


def _engine_of(handle: Handle) -> Path:
    """The engine that the run was started at; without a token the one that is used now."""
    told = handle.token.get("engine")
    return Path(told) if isinstance(told, str) else engine.socket_path()


def _ports_of(seen: Inspected | None) -> list[int]:
    bindings = ((seen or {}).get("HostConfig") or {}).get("PortBindings") or {}
    return [int(one["HostPort"]) for some in bindings.values() for one in some or ()]


def _already_running(service: str, pid: int | None) -> Failed:
    return Failed(
        "already-running",
        f"a container of service {service} is running already",
        why=f"its pid is {pid}" if pid else "the engine says so",
        hint=f"stop it first: gpumod service stop {service}; `gpumod doctor` tells how where that does not find it",
    )


def _cannot_kill(service: str, pids: Sequence[int]) -> Failed:
    return Failed(
        "cannot-kill",
        f"the container of service {service} does not end",
        why=f"the engine says that it is up; its processes: {', '.join(map(str, pids[:10])) or 'none'}",
        hint="processes in state D end when the kernel lets them; if the engine hangs: systemctl restart docker",
        pids=list(pids[:100]),
    )
