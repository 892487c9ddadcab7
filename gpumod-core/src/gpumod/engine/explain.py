"""Why a service did not start or wake, in the words of its own log: the fatal line, or how its process ended."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gpumod.domain.errors import Failed, GpumodError
from gpumod.domain.machine import PortUser
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.engine.logs import log_of
from gpumod.engine.machine import Machine
from gpumod.plugins.kit import poll
from gpumod.ports import FatalLine, HttpFailure, ProcessStatus, ReadsItsLog

LOG_LINES = 400
"""So many are read for a fatal one. vLLM's last words alone are 70 to 150 lines of tracebacks, behind their reason."""
TOLD_LINES = 20
"""So many of the last are told with an error."""
LOG_LAG_S = 0.25
"""What a service writes is in its log within this, and that its process ended is seen."""


def fatal_line(machine: Machine, service: Service, lines: tuple[str, ...]) -> FatalLine | None:
    """The fatal line that the driver finds in `lines`. One that breaks finds none, and hides no other reason."""
    driver = machine.driver(service)
    try:
        return driver.fatal_line(service, lines) if isinstance(driver, ReadsItsLog) else None
    except GpumodError:
        return None


@asynccontextmanager
async def explained(machine: Machine, service: Service, owner: Handle, verb: str) -> AsyncIterator[None]:
    """What fails inside is told by the fatal line that the log of `owner` says meanwhile, where it says one.

    What ran out of time stays that: it may still come about. Where the process of a host is gone, that is why.
    """
    before = await log_of(machine, owner, LOG_LINES)
    try:
        yield
    except (Failed, HttpFailure) as error:
        late = error.kind == "timeout" if isinstance(error, HttpFailure) else error.code.endswith("-timeout")
        lines: tuple[str, ...] = ()

        async def told() -> FatalLine | None:
            nonlocal lines
            lines = since(before, await log_of(machine, owner, LOG_LINES))
            return fatal_line(machine, service, lines)

        if owner.service != service.id:
            await _look_at_host(machine, owner, service, verb, error)
        if late or (fatal := await poll(machine.clock, told, LOG_LAG_S)) is None:
            raise
        raise fatal_error(service, fatal, lines, verb) from error


async def _look_at_host(machine: Machine, host: Handle, member: Service, verb: str, error: Exception) -> None:
    """Raise `host-ended` when the process of `host` is gone, or just going."""
    supervisor = machine.supervisor(host.supervisor)

    async def end() -> ProcessStatus | None:
        status = (await supervisor.status([host]))[host.service]
        return None if status.alive else status

    if status := await poll(machine.clock, end, LOG_LAG_S):
        lines = await log_of(machine, host, LOG_LINES)
        ended = died(host.launched, status.exit_code, lines, None).info
        raise Failed(
            "host-ended",
            f"{host.service}, the host of {member.id}, ended when {member.id} was to {verb}",
            why=ended.why,
            hint=ended.hint,
            service=host.service,
            exit_code=status.exit_code,
        ) from error


def since(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of `now` that came after `before`, both being the last lines of one log."""
    for count in range(len(now), 0, -1):
        if now[:count] == before[-count:]:
            return now[count:]
    return now


def fatal_error(service: Service, fatal: FatalLine, lines: tuple[str, ...], verb: str = "start") -> Failed:
    """The error of a fatal log line, with the shortfall in MiB where the line has the numbers."""
    why = fatal.line
    if fatal.need_mb is not None and fatal.have_mb is not None:
        why = f"it needs {fatal.need_mb} MiB and has {fatal.have_mb} MiB, {fatal.need_mb - fatal.have_mb} MiB short"
    elif fatal.need_mb is not None:
        why = f"it asked for {fatal.need_mb} MiB: {fatal.line}"
    hint, remedy = fatal.hint or f"see `gpumod service logs {service.id}`", fatal.remedy
    if remedy is not None:
        options = " ".join(f"--set {shlex.quote(f'{name}={value}')}" for name, value in remedy.unit_vars.items())
        hint = f"{hint}: gpumod service edit {service.id} {options}"
    return Failed(
        fatal.code,
        f"{service.id} could not {verb}: {fatal.code.replace('-', ' ')}",
        why=why,
        hint=hint,
        service=service.id,
        need_mb=fatal.need_mb,
        have_mb=fatal.have_mb,
        log=list(lines[-TOLD_LINES:]),
        **({"remedy": remedy.model_dump(mode="json")} if remedy else {}),
    )


def port_taken(
    machine: Machine, service: Service, port: int, user: PortUser, why: str, lines: tuple[str, ...] = ()
) -> Failed:
    """The error of a service whose port somebody else has; `lines` are of its log."""
    return Failed(
        "port-taken",
        f"port {port} of {service.id} is taken by {user}",
        why=why,
        hint=free_port(machine, service, user),
        port=port,
        pid=user.pid,
        **({"service": service.id, "log": list(lines[-TOLD_LINES:])} if lines else {}),
    )


def free_port(machine: Machine, service: Service, user: PortUser) -> str:
    """What to do about `user`, who has the port of `service`."""
    end = "end it"
    if user.home and user.home_id != machine.home_id:
        end = f"`gpumod --home {shlex.quote(user.home)} service stop {user.service}` ends it"
    elif is_known(machine, service, user):
        end = f"`gpumod service stop {user.service}` ends it"
    return f"{end}, or give the service another port: gpumod service edit {service.id} --port N"


def is_known(machine: Machine, service: Service, user: PortUser) -> bool:
    """Whether `user`, who has the port of `service`, is another service of this home that gpumod looks after."""
    others = machine.store.handles().keys() - {service.id}
    return user.home_id == machine.home_id and user.service in others


async def ended_because(machine: Machine, handle: Handle, status: ProcessStatus) -> Failed:
    """Why a service with a process of its own ended while it was starting; who has its port is named."""
    service = handle.launched
    lines = await log_of(machine, handle, LOG_LINES)
    fatal = fatal_line(machine, service, lines)
    if fatal is not None and fatal.code == "port-taken" and service.port is not None:
        users = await asyncio.to_thread(machine.local.port_users, [service.port])
        if service.port in users:
            return port_taken(machine, service, service.port, users[service.port], fatal.line, lines)
    return died(service, status.exit_code, lines, fatal, status.detail)


def died(
    service: Service, exit_code: int | None, lines: tuple[str, ...], fatal: FatalLine | None, detail: str = ""
) -> Failed:
    """The error of a service that ended while it was starting; `detail` is what its supervisor says of that."""
    if fatal:
        return fatal_error(service, fatal, lines)
    how = (
        "ended"
        if exit_code is None
        else (f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with code {exit_code}")
    )
    last = next((line for line in reversed(lines) if line.strip()), "")
    return Failed(
        "died-while-starting",
        f"{service.id} {how} while it was starting",
        why=detail or last or "it left no word in its log",
        hint=f"see `gpumod service logs {service.id}`",
        service=service.id,
        exit_code=exit_code,
        log=list(lines[-TOLD_LINES:]),
    )
