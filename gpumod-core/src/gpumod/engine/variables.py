"""Secrets that a service would not run with, told before anything is stopped."""

from __future__ import annotations

from collections.abc import Mapping

from gpumod.domain.errors import UsageError
from gpumod.domain.secrets import HIDDEN, SHORTEST
from gpumod.domain.service import Service
from gpumod.engine.machine import Machine
from gpumod.plugins.kit import is_denied
from gpumod.ports import ChecksVariables


def check_secrets(machine: Machine, service: Service) -> None:
    """Raise Failed for secrets of a service that cannot be read, UsageError (`bad-secret`) for one that it would not
    run with: its driver's look at its options does not see them, and they win over these."""
    if why := why_not_with(machine, service, machine.secrets.values(service.id)):
        raise UsageError(
            "bad-secret",
            f"{service.id} cannot be started with its secrets",
            why=why,
            hint=f"gpumod service secret remove {service.id} NAME",
        )


def why_not_with(machine: Machine, service: Service, variables: Mapping[str, str]) -> str:
    """Why `service` would not run with these variables, in the words of its driver or of what keeps it; "" where it
    would. An adopted service gets none."""
    if service.adopted or not variables:
        return ""
    if denied := sorted(name for name in variables if is_denied(name)):
        return f"{', '.join(denied)}: it changes what is run, or gpumod sets it"
    name = machine.supervisor_name(service)
    keeper = machine.supervisor(name) if name in machine.plugins.supervisors else None
    try:
        for one in (machine.driver(service), keeper):
            if isinstance(one, ChecksVariables):
                one.check_variables(service, variables)
    except ValueError as error:
        why = str(error)
        for value in variables.values():
            if len(value) >= SHORTEST:  # a stranger's driver may repeat it
                why = why.replace(value, HIDDEN)
        return why
    return ""
