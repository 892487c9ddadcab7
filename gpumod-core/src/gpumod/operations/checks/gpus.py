"""GPUs: what each has, what its driver says of it, cards that are gone or faulty, and who is on those."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpumod.domain.cards import NATIVE_FROM, capability_of, computes, kind_of, known_card
from gpumod.domain.machine import GpuProcess, GpuReading, untold_mb
from gpumod.engine.machine import Machine
from gpumod.operations.checks.case import Case, fine, problem
from gpumod.operations.results import Check
from gpumod.ports import TellsFindings


def check_gpus(case: Case) -> Iterator[Check]:
    """Every GPU, and what the probe has to say besides. Raises what the probe raises."""
    machine = case.machine
    gpus, processes = machine.look_at_gpus()
    for gpu in gpus:
        yield from _check_gpu(machine, gpu, processes)
        yield from _stranded(case, gpu)
        yield from _grown(case, gpu)
    yield from _missing(machine, gpus)
    if isinstance(machine.probe, TellsFindings):
        for finding in machine.probe.findings():
            yield Check.model_validate(finding.model_dump())


def _stranded(case: Case, gpu: GpuReading) -> Iterator[Check]:
    """Services that were on a card when it was lost, or has to be reset: they cannot go on with it."""
    if gpu.fault is None or case.snapshot is None:
        return
    for service, reading in case.snapshot.services.items():
        if case.is_up(service) and gpu.index in reading.gpus:
            message = f"it is on GPU {gpu.index}, which cannot be used: what it does there fails"
            yield problem(f"service {service}", message, f"gpumod service stop {service}, before the card is reset")


def _grown(case: Case, gpu: GpuReading) -> Iterator[Check]:
    """How much more others (a desktop, say) hold on a card than when `gpumod watch` first saw this boot."""
    last = next(iter(case.machine.store.events_of("boot-seen", limit=1)), None)
    if last is None or case.snapshot is None or gpu.fault or last.data.get("boot") != case.machine.local.identity(1):
        return
    then_mb, now_mb = last.data.get("foreign_mb", {}).get(str(gpu.index)), case.snapshot.foreign_mb(gpu.index)
    reserve_mb = case.machine.settings.reserve_mb
    if then_mb is not None and now_mb - then_mb > reserve_mb:
        said = (
            f"others hold {now_mb} MiB now, and held {then_mb} after the boot: that grew by more than reserve_mb keeps"
        )
        hint = f"where that is your desktop, `gpumod settings set reserve_mb {now_mb - then_mb}` keeps room for it"
        yield fine(f"gpu {gpu.index}", said, hint)


def _check_gpu(machine: Machine, gpu: GpuReading, processes: Sequence[GpuProcess]) -> Iterator[Check]:
    name = f"gpu {gpu.index}"
    if gpu.fault is not None:
        yield Check(name=name, level="problem", message=f"{gpu.fault.message}: {gpu.fault.why}", hint=gpu.fault.hint)
        return
    yield Check(name=name, level="ok", message=f"{gpu.name}: {gpu.free_mb} of {gpu.total_mb} MiB free")
    yield from _kind(gpu)
    rest_mb = untold_mb(gpu, processes)
    if rest_mb > 0 and gpu.per_process:
        yield Check(
            name=name,
            level="warning",
            message=f"{rest_mb} MiB are in use and belong to no process",
            hint="the desktop or a process that is just ending; else a driver reset gives it back",
        )
    reserve_mb = machine.settings.reserve_mb
    if gpu.total_mb <= reserve_mb:
        yield Check(
            name=name,
            level="problem",
            message=f"the setting reserve_mb ({reserve_mb}) leaves nothing of {gpu.total_mb} MiB",
            hint="gpumod settings set reserve_mb 512",
        )


def _kind(gpu: GpuReading) -> Iterator[Check]:
    """What a card computes in, and what is known of its memory and its bus."""
    if not (kind := kind_of(gpu)):
        return
    said = [kind]
    if capability := capability_of(gpu):
        formats = " and ".join(name for name in NATIVE_FROM if computes(capability, name))
        said.append(f"computes in {formats}" if formats else "computes neither in bf16 nor in fp8 itself")
    if (card := known_card(gpu.name, gpu.total_mb)) is not None:
        said += [f"memory {card.bandwidth_gb_s} GB/s"] if card.bandwidth_gb_s else []
        said.append(f"made for PCIe {card.pcie}")
    yield fine(f"gpu {gpu.index}", ", ".join(said))


def _missing(machine: Machine, gpus: Sequence[GpuReading]) -> Iterator[Check]:
    """Cards that were there when the home was made ready, and are not any more."""
    here = {gpu.uuid for gpu in gpus}
    for was in machine.store.gpu_profiles():
        if was.uuid and was.uuid not in here and not machine.settings.cuda_devices:
            yield Check(
                name=f"gpu {was.index}",
                level="warning",
                message=f"{was.name} ({was.uuid}) was here at `gpumod init`, and is not any more",
                hint="look at `sudo dmesg`, its power and its seat; if it was taken out: gpumod init",
            )
