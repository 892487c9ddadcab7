"""Containers that somebody else made, as far as a plugin finds them: what of them may be adopted, and as what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

from gpumod.domain.errors import ErrorInfo, Failed, GpumodError, UnknownName, UsageError
from gpumod.domain.machine import GpuReading
from gpumod.engine.machine import Machine
from gpumod.plugins.isolation import reason
from gpumod.ports.foreign import ContainerFacts, FindsContainers

T = TypeVar("T")
KEEPER = "adopted-container"
"""The supervisor that looks after adopted containers; a plugin offers it."""
QUIET = ("no-engine", "remote-engine", "unknown-supervisor")
"""Why there are no containers on a machine of which nobody expects any."""


def finder(machine: Machine) -> FindsContainers:
    """Raises UnknownName where no plugin that is installed finds containers."""
    supervisor = machine.supervisor(KEEPER)
    if not isinstance(supervisor, FindsContainers):
        raise UnknownName("unknown-supervisor", f"the plugin that offers {KEEPER} finds none")
    return supervisor


def _told(machine: Machine, ask: Callable[[FindsContainers], T]) -> T:
    """What the finder answers. Whatever goes wrong in it becomes a GpumodError."""
    try:
        return ask(finder(machine))
    except GpumodError:
        raise
    except Exception as error:
        raise Failed(
            "plugin-broken",
            f"what finds containers breaks: {reason(error)}",
            hint="update or repair the plugin that does: gpumod plugins",
        ) from error


def find(machine: Machine, name: str) -> ContainerFacts | None:
    """The container of this name or id. Blocks; raises GpumodError where nobody can tell."""
    return _told(machine, lambda asked: asked.container(name))


def quietly(machine: Machine, name: str) -> tuple[ContainerFacts | None, ErrorInfo | None]:
    """As :func:`find`, for what need not be a container; and why it is not known, where that is worth a word."""
    try:
        return find(machine, name), None
    except GpumodError as error:
        return None, None if error.code in QUIET else error.info


def up(machine: Machine, problems: list[ErrorInfo]) -> tuple[ContainerFacts, ...]:
    """All that are up. What keeps them from being told goes to `problems`, but for there being no engine."""
    try:
        return _told(machine, lambda asked: asked.containers())
    except GpumodError as error:
        problems += [] if error.code in QUIET else [error.info]
        return ()


def refuse(box: ContainerFacts) -> None:
    """Raise UsageError for a container that is gpumod's own, or that would not outlive a stop."""
    if box.own:
        raise UsageError("own-container", f"{box.name} is a container of gpumod's own", why="it is managed already")
    if box.passing:
        raise UsageError(
            "removes-itself",
            f"the container {box.name} is removed by its engine as soon as it stops (it was made with --rm)",
            why="gpumod could stop it but not start it again, and nothing of somebody else's is removed by a switch",
            hint="make it without --rm; or adopt the unit that makes it, where one does",
        )


def port_of(box: ContainerFacts, inner: int | None, command: str) -> int:
    """Where this machine reaches what listens on `inner` in there (None: nobody knows on which).

    Raises UsageError `which-port`.
    """
    if box.shares_network and inner is not None:
        return inner
    if inner is None and len(box.published) == 1:
        return next(iter(box.published.values()))
    if inner is not None and inner in box.published:
        return box.published[inner]
    led = ", ".join(f"{outer} (to {within} in there)" for within, outer in sorted(box.published.items()))
    serves = f"in there it serves on {inner}" if inner else "on which port it serves in there is not known"
    raise UsageError(
        "which-port",
        f"the container {box.name} does not say on which port of this machine it serves",
        why=f"{serves}, and published at this machine's loopback, at each start alike, is: {led or 'none'}",
        hint=f"{command} --port N says it; or publish it, where the container is made: -p 127.0.0.1:N:{inner or 'M'}",
    )


def outside(box: ContainerFacts, path: str) -> str | None:
    """Where on this machine the file `path` of the container is; None where it is in no folder that it shares."""
    place = PurePosixPath(path)
    for folder in (place, *place.parents):
        if (source := box.mounts.get(str(folder))) is not None:
            return str(PurePosixPath(source, place.relative_to(folder)))
    return None


def place(box: ContainerFacts, fields: dict[str, Any], cards: Sequence[GpuReading]) -> bool:
    """Settle the `gpus` of the fields: in there the GPUs are counted that the container was given.

    True where they then are the engine's word alone, which counts as the driver does and not as CUDA.
    """
    by_name: Mapping[str, int] = {name: card.index for card in cards for name in (str(card.index), card.uuid)}
    given = [by_name.get(name) for name in box.gpus]
    if not given:
        return False
    said = fields.pop("gpus", None)
    seat = [given[n] if n < len(given) else None for n in said] if said is not None else given
    if all(index is not None for index in seat) and (said is not None or len(seat) == 1):
        fields["gpus"] = tuple(seat)
    return len(given) == 1
