"""Services that listen for the network, where nobody asks for a password."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpumod.domain.errors import GpumodError
from gpumod.domain.service import Service
from gpumod.operations.checks.case import Case, fine, warning
from gpumod.operations.results import Check
from gpumod.operations.subjects import of_unit, read
from gpumod.ports.commands import CommandLine

LOOPBACK = ("127.", "::1", "localhost")
FENCE = "a firewall, or a proxy with a password in front of it, if that is meant"


def check_exposure(case: Case) -> Iterator[Check]:
    bind_host = case.machine.settings.bind_host
    everywhere = not bind_host.startswith(LOOPBACK)
    if everywhere:
        yield warning(
            "network",
            f"the setting bind_host ({bind_host}) opens every service to the network, without a password",
            f"gpumod settings set bind_host --default; or {FENCE}",
        )
    ports = {
        handle.launched.port: service
        for service, handle in case.handles.items()
        if handle.launched.port and case.is_up(service) and not (everywhere and handle.launched.adopted is None)
    }
    found = case.computer.open_ports(set(ports))
    for port, address in sorted(found.items()):
        service = ports[port]
        yield warning(
            f"service {service}",
            f"it listens on {address}, port {port}: whoever reaches this machine can use it, without a password of"
            " gpumod's",
            _mend(case, service),
        )
    seen = {ports[port] for port in found}
    down = [*_would_bind(case)]
    for service, address in down:
        if service not in seen and not (everywhere and case.services[service].adopted is None):
            message = f"its command line says that it is to listen on {address}, for the network"
            yield warning(f"service {service}", message, _mend(case, service))
    if not everywhere and not found and not down:
        yield fine("network", "services listen on this computer's loopback alone")


def _mend(case: Case, service: str) -> str:
    adopted = case.services[service].adopted if service in case.services else None
    if adopted is not None and adopted.container is not None:
        return f"let it publish its port at this machine alone, where it is made (-p 127.0.0.1:PORT:PORT); or {FENCE}"
    if adopted is not None:
        return f"let its command line say --host 127.0.0.1; or {FENCE}"
    return f"gpumod service edit {service}: its command takes the address from {{host}}; or {FENCE}"


def _would_bind(case: Case) -> Iterator[tuple[str, str]]:
    """Services that are down, and would listen for the network by their command lines; and the address."""
    for service in case.services.values():
        if case.is_up(service.id):
            continue
        told = read(case.machine, _commands(case, service), service.driver)
        if told is not None and told[1].binds and not told[1].binds.startswith(LOOPBACK):
            yield service.id, told[1].binds


def _commands(case: Case, service: Service) -> Sequence[CommandLine]:
    adopted = service.adopted
    if adopted is not None and adopted.unit is not None and adopted.manager is not None:
        try:
            unit = case.around.unit(adopted.unit, adopted.manager)
        except GpumodError:  # told with the manager
            return ()
        return of_unit(case.around, unit).commands if unit else ()
    launch = case.launches.get(service.id)
    if launch is None or adopted is not None:
        return ()
    if case.machine.inside(case.machine.supervisor_name(service)):
        return ()  # where it listens in there leads nowhere: of its published ports the setting bind_host decides
    return (CommandLine(argv=launch.argv, env=launch.env),)
