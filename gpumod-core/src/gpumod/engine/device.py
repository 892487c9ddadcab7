"""Who holds what on the GPUs: by process where the driver tells, else by the difference that a service makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpumod.domain.errors import ErrorInfo, Failed, MachineLacks
from gpumod.domain.machine import GpuProcess, GpuReading, untold_mb
from gpumod.domain.run import Handle
from gpumod.domain.sharing import Claim, share_out
from gpumod.domain.states import Action, State
from gpumod.engine.context import RunContext
from gpumod.engine.machine import Reading


@dataclass(frozen=True)
class Held:
    """What a service holds: MiB per GPU, and its pids. `known` is False where that is the device's difference."""

    mb: Mapping[int, int]
    pids: frozenset[int]
    known: bool = True

    @property
    def total_mb(self) -> int:
        return sum(self.mb.values())

    @property
    def said(self) -> str:
        """What to add to the number for a person."""
        return "" if self.known else " (by the device's difference: the driver does not tell what a process holds)"


def told_by(pids: Iterable[int], processes: Iterable[GpuProcess]) -> Held:
    """What the driver tells of these processes."""
    own = frozenset(pids)
    mine = [p for p in processes if p.pid in own]
    mb: dict[int, int] = {}
    for process in mine:
        mb[process.gpu] = mb.get(process.gpu, 0) + (process.vram_mb or 0)
    return Held(mb, own, known=all(p.vram_mb is not None for p in mine))


def held_by(ctx: RunContext, service: str, pids: Iterable[int], reading: Reading) -> Held:
    """What `service` holds: as told, else the difference that it made when it was started, slept or woken."""
    told = told_by(pids, reading[1])
    claimed = ctx.device_mb.get(service)
    if told.total_mb or not claimed or not told.pids:
        return told
    return Held(claimed, told.pids, known=False)


def shares(
    handles: Mapping[str, Handle], up: Mapping[str, State], gpus: Sequence[GpuReading], named: Iterable[GpuProcess]
) -> dict[str, dict[int, int]]:
    """MiB by service and GPU of what the driver names no process for. Pure.

    `up` are the services that have a process, and their states: one that does not sleep may have grown, since it was
    measured, to what it declares.
    """
    processes = list(named)
    found: dict[str, dict[int, int]] = {service: {} for service in up}
    for gpu in gpus:
        on_it = [p for p in processes if p.gpu == gpu.index]
        claims = {
            service: claim
            for service, state in up.items()
            if (claim := _claim(handles[service], gpu, [p for p in on_it if p.service == service], state))
        }
        for service, mb in share_out(untold_mb(gpu, on_it), claims).items():
            if mb:
                found[service][gpu.index] = mb
    return found


def marked(
    handles: Mapping[str, Handle], up: Iterable[str], gpus: Iterable[GpuReading], named: Iterable[GpuProcess]
) -> tuple[GpuReading, ...]:
    """`gpus`, where one that names nobody for what a service holds is said not to tell what each process holds.

    There are drivers that just tell of no process. `up` are the services that have one.
    """
    told = {(p.service, p.gpu) for p in named if p.vram_mb}
    silent = {gpu for s in up for gpu, mb in handles[s].device_mb.items() if mb and (s, gpu) not in told}
    return tuple(g.model_copy(update={"per_process": False}) if g.index in silent else g for g in gpus)


def with_silent(handles: Mapping[str, Handle], states: Mapping[str, State]) -> Mapping[str, Handle]:
    """`handles`, where what a member held is its host's while the host does not tell of it."""
    found = dict(handles)
    for handle in handles.values():
        host = found.get(handle.launched.host or "")
        if host is not None and handle.device_mb and states[handle.service] is State.UNKNOWN:
            together = added(host.device_mb, handle.device_mb)
            found[host.service] = host.model_copy(update={"device_mb": together})
    return found


def added(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    """The sum of two counts of MiB by GPU."""
    return {gpu: one.get(gpu, 0) + other.get(gpu, 0) for gpu in {**one, **other}}


def _claim(handle: Handle, gpu: GpuReading, mine: Sequence[GpuProcess], state: State) -> Claim | None:
    if any(process.vram_mb for process in mine):
        return None
    measured_mb = handle.device_mb.get(gpu.index, 0)
    untold = not gpu.per_process or any(process.vram_mb is None for process in mine)
    if not measured_mb and (not untold or gpu.index not in handle.gpus):
        return None
    if state is State.SLEEPING or gpu.index not in handle.gpus:
        return Claim(measured_mb, measured_mb)
    peak_mb = 0 if state is State.RUNNING else handle.launched.start_peak_mb or 0
    declared_mb = -(-max(handle.launched.vram_mb, peak_mb) // len(handle.gpus))
    return Claim(measured_mb, max(measured_mb, declared_mb))


# --- in a run -----------------------------------------------------------------------------------------------------


def nobodys_mb(ctx: RunContext, reading: Reading, gpu: int, *, but: str = "") -> int:
    """MiB in use on `gpu` that belong to no process, and to no service (other than `but`) by its difference."""
    card = find(reading[0], gpu)
    ours = sum(mb.get(gpu, 0) for service, mb in ctx.device_mb.items() if service != but)
    return max(0, untold_mb(card, reading[1]) - ours) if card else 0


def more_mb(ctx: RunContext, reading: Reading, gpu: int, *, but: str = "") -> int:
    """By how much that is more than what is known to be nobody's: what was so when the run began, and what did not
    come back since. That is never anybody's of ours."""
    return nobodys_mb(ctx, reading, gpu, but=but) - ctx.unattributed.known_mb(gpu)


def is_untold(ctx: RunContext, reading: Reading, gpu: int) -> bool:
    """True where the driver does not tell what each process on `gpu` holds."""
    card = find(reading[0], gpu)
    nameless = any(p.gpu == gpu and p.vram_mb is None for p in reading[1])
    return nameless or (card is not None and not card.per_process) or any(gpu in mb for mb in ctx.device_mb.values())


def leave_to_host(ctx: RunContext, host: str, before: Held) -> None:
    """Count what a member held as its host's: it could not be unloaded, and ends with the host."""
    ctx.left_to_host[host] = ctx.left_to_host.get(host, frozenset()) | before.pids
    if not before.known:
        ctx.device_mb[host] = added(ctx.device_mb.get(host, {}), before.mb)


def coming_mb(ctx: RunContext, reading: Reading, gpu: int) -> int:
    """What starts and wakes under way may have taken of `gpu` without being told by process."""
    if not is_untold(ctx, reading, gpu):
        return 0
    coming = (step for step in ctx.running.values() if step.action in (Action.START, Action.WAKE))
    return sum(step.takes_mb.get(gpu, 0) for step in coming)


def find(gpus: Iterable[GpuReading], index: int) -> GpuReading | None:
    return next((gpu for gpu in gpus if gpu.index == index), None)


def unusable(fault: ErrorInfo) -> MachineLacks:
    """The error of whoever needs a card with this fault, before anything is touched."""
    return MachineLacks(fault.code, fault.message, why=fault.why, hint=fault.hint, **fault.details)


def refuse_fault(gpus: Iterable[GpuReading], wanted: Iterable[int]) -> None:
    """Raise why one of the `wanted` GPUs cannot be used, if it cannot (`gpu-lost` and the like)."""
    seats = set(wanted)
    for gpu in gpus:
        if gpu.fault is not None and gpu.index in seats:
            info = gpu.fault
            raise Failed(info.code, info.message, why=info.why, hint=info.hint, **info.details)
