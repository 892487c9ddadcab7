"""What a service wrote, as errors, progress and history may repeat it: without the secrets that it was given."""

from __future__ import annotations

import asyncio

from gpumod.domain.errors import GpumodError
from gpumod.domain.run import Handle
from gpumod.domain.secrets import HIDDEN, SHORTEST, secret_values
from gpumod.engine.machine import Machine


async def log_of(machine: Machine, owner: Handle, lines: int) -> tuple[str, ...]:
    """The last `lines` of the log of `owner`, as :func:`read_log` gives them."""
    return await asyncio.to_thread(read_log, machine, owner, lines)


def read_log(machine: Machine, owner: Handle, lines: int) -> tuple[str, ...]:
    """The last `lines` of its log; none where its secrets cannot be read, for then they cannot be hidden. Blocks."""
    said = machine.supervisor(owner.supervisor).logs(owner.service, lines)
    try:
        given = machine.secrets.values(owner.service).values()
    except GpumodError:
        return ()
    words = {line for value in given for line in value.splitlines() if len(line) >= SHORTEST}
    for secret in sorted(words | secret_values(owner.launched), key=len, reverse=True):
        said = tuple(line.replace(secret, HIDDEN) for line in said)
    return said
