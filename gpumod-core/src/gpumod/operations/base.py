"""What all operations share: the machine, lookups with helpful errors, and the view of a change."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from pydantic import ValidationError

from gpumod.domain.errors import (
    DoesNotFit,
    ErrorInfo,
    Failed,
    GpumodError,
    HalfWay,
    Interrupted,
    MachineLacks,
    RolledBack,
    UnknownName,
    UsageError,
)
from gpumod.domain.machine import HostSnapshot, ServiceReading
from gpumod.domain.mode import Mode
from gpumod.domain.progress import Progress
from gpumod.domain.run import Event, Run, RunStatus
from gpumod.domain.service import Service
from gpumod.domain.settings import LAST_MODE, Settings, device_list
from gpumod.domain.states import GONE
from gpumod.domain.words import findings
from gpumod.engine.context import Report
from gpumod.engine.execute import INTERRUPTED
from gpumod.engine.machine import Machine, chosen
from gpumod.engine.planning import AT_ONCE
from gpumod.engine.runs import Outcome
from gpumod.operations.ports import Tools
from gpumod.operations.results import ChangeResult, StepResult
from gpumod.plugins.registry import unavailable

DISK_FULL = "disk-full"
"""The code of what no service is to blame for."""
MOST_NAMED = 20
"""So many names are told of what there is."""

OnProgress = Callable[[Progress], None] | None


class Base:
    """Holds the machine; each noun's operations are a class of their own, put together in `Gpumod`."""

    def __init__(self, machine: Machine, tools: Tools) -> None:
        self._machine = machine
        self._tools = tools

    def _event(self, kind: str, subject: str, **data: object) -> Event:
        return Event(at=self._machine.clock.now(), kind=kind, subject=subject, data=data)

    def _service(self, service_id: str, services: Mapping[str, Service] | None = None) -> Service:
        known = self._machine.store.services() if services is None else services
        if service_id not in known:
            self._refuse_broken("services", service_id)
            raise unknown("service", service_id, known, "gpumod service list")
        return known[service_id]

    def _mode(self, mode_id: str, modes: Mapping[str, Mode] | None = None) -> Mode:
        known = self._machine.store.modes() if modes is None else modes
        if mode_id not in known:
            self._refuse_broken("modes", mode_id)
            raise unknown("mode", mode_id, known, "gpumod mode list")
        return known[mode_id]

    def _check_offered(self, key: str, value: str | None, modes: Mapping[str, Mode] | None = None) -> None:
        """Raise UnknownName for a setting that names a probe or a supervisor that nobody offers, or a mode that is not
        defined; UsageError for a user or a GPU that is not there, a folder that is no simulated machine, or a reserve
        that leaves nothing. `modes` are those that will be defined, where it is not the present ones."""
        if value and key == "gpu_probe":
            self._machine.plugins.gpu_probes.offer(value)
        elif value and key == "supervisor":
            self._machine.plugins.check_supervisor(value)
        elif value and key == "user":
            self._tools.check_user(value)
        elif value and key == "cuda_devices":
            self._check_devices(value)
        elif value and key == "boot_mode" and value != LAST_MODE:
            self._mode(value, modes)
        elif value and key == "reserve_mb":
            self._check_reserve(int(value))
        elif value and key == "sim_machine":
            why = unavailable(self._machine.plugins.simulator(), Settings(sim_machine=value))
            if why is not None:
                hint = f'gpumod init --sim "RTX 4090:24564" --sim-dir {value} makes one there'
                raise UsageError("bad-setting", f"the setting {key} cannot be {value!r}", why=why, hint=hint, key=key)

    def _check_devices(self, value: str) -> None:
        """Refuse GPUs that are not there; where no GPU can be read now, that is left to the first use."""
        try:
            reading = self._machine.probe.read()
        except MachineLacks:
            return
        try:
            chosen(reading, device_list(value))
        except UnknownName as error:
            info = error.info
            raise UsageError("bad-setting", info.message, why=info.why, hint=info.hint, key="cuda_devices") from error

    def _check_reserve(self, reserve_mb: int) -> None:
        """Refuse a reserve that leaves nothing of any GPU; where no GPU can be read now, any is taken."""
        try:
            gpus, _ = self._machine.probe.read()
        except MachineLacks:
            return
        most_mb = max((gpu.total_mb for gpu in gpus), default=0)
        if most_mb and reserve_mb >= most_mb:
            raise UsageError(
                "bad-setting",
                f"the setting reserve_mb cannot be {reserve_mb}",
                why=f"the largest GPU has {most_mb} MiB",
                hint="gpumod settings set reserve_mb 512",
                key="reserve_mb",
            )

    def _broken(self, table: str, row: str) -> ErrorInfo | None:
        """What is wrong with a row of the database that cannot be read."""
        found = (p for p in self._machine.store.problems() if (p.details["table"], p.details["row"]) == (table, row))
        return next(found, None)

    def _told_settings(self) -> tuple[str, ...]:
        """What to say of settings whose stored value is wrong: plans are made with their defaults."""
        wrong = (p for p in self._machine.store.problems() if p.details["table"] == "settings")
        return tuple(f"{p.message}: {p.hint}" for p in wrong)

    def _refuse_broken(self, table: str, row: str) -> None:
        info = self._broken(table, row)
        if info is not None:
            raise Failed(info.code, info.message, why=info.why, hint=info.hint, **info.details)


def unknown(kind: str, name: str, known: Iterable[str], command: str) -> UnknownName:
    """UnknownName `unknown-<kind>`, with the names that are close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3) or [n for n in names if name and n.startswith(name)][:3]
    hint = f"did you mean {' or '.join(close)}?" if close else f"see `{command}`"
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    why = f"there are: {', '.join(names[:MOST_NAMED])}{more}" if names else f"no {kind} is defined"
    if not names and kind in ("service", "mode"):
        hint = "gpumod preset load"
    return UnknownName(f"unknown-{kind}", f"there is no {kind} {name!r:.100}", why=why, hint=hint)


def bad_input(what: str, error: ValidationError, command: str) -> UsageError:
    """A validation error as a usage error that names each field, what is wrong with it, and the `command` whose help
    says what it may be."""
    found = findings(error.errors(include_url=False))
    why = "; ".join(f"{field}: {said}" if field else said for field, said in found)
    fields = [field for field, _ in found if field]
    hint = f"`{command} --help` says what each option takes"
    return UsageError("bad-input", f"{what} is not valid", why=why, hint=hint, fields=fields)


def failure_of(outcome: Outcome | ChangeResult) -> GpumodError:
    """What a change failed with, as the error to raise."""
    kinds = {kind.exit_code: kind for kind in (DoesNotFit, RolledBack, HalfWay)}
    info = outcome.error or ErrorInfo(code="failed", message="the change failed")
    kind = kinds.get(outcome.exit_code, Failed)
    return kind(info.code, info.message, why=info.why, hint=info.hint, **info.details)


def is_interrupted(error: ErrorInfo | None) -> bool:
    """True where a signal has ended a change: it did not fail."""
    return error is not None and error.code == INTERRUPTED.code


def may_be_over_soon(error: GpumodError) -> bool:
    """True for what kept a change from its first step and is no matter of its services: a full disk, a signal, a run
    that is open."""
    return isinstance(error, HalfWay | Interrupted) or error.code == DISK_FULL


def reporter(progress: OnProgress) -> Report:
    return progress or (lambda _news: None)


def drift(service: Service, reading: ServiceReading) -> tuple[str, ...]:
    """The fields in which the definition differs from what runs, and that hold only after a restart."""
    if reading.launched is None or reading.state in GONE:
        return ()
    if service.adopted and service.adopted == reading.launched.adopted:  # whoever set it up says how it is started
        return ()
    now, then = service.model_dump(), reading.launched.model_dump()
    return tuple(sorted(field for field in now if now[field] != then[field] and field not in AT_ONCE))


def restarts(changed: Mapping[str, Service], snapshot: HostSnapshot, wanted: Iterable[str]) -> tuple[str, ...]:
    """Of the services in `wanted`, those that are up with another definition than the one in `changed`."""
    return tuple(s for s in sorted(wanted) if s in changed and drift(changed[s], snapshot.reading(s)))


def steps_of(run: Run) -> tuple[StepResult, ...]:
    """The steps of a run as results show them."""
    return tuple(
        StepResult(
            n=record.n,
            action=record.step.action,
            service=record.step.service,
            status=record.status,
            seconds=None if record.seconds is None else round(record.seconds, 3),
            phase=record.phase,
            why=record.step.why,
            expected_s=record.step.expected_s,
            expected_measured=record.step.expected_measured,
            detail=record.detail,
            error=record.error,
        )
        for record in run.steps
    )


def change_result(outcome: Outcome, mode: str | None, mode_now: str | None) -> ChangeResult:
    """An outcome as `--json` prints it. What the plan noted is told where it was reached: a refusal shows its plan."""
    run = outcome.run
    noted = outcome.plan.notes if outcome.status in (RunStatus.DONE, RunStatus.NOTHING_TO_DO) else ()
    steps = steps_of(run) if run else ()
    return ChangeResult(
        run_id=run.id if run else None,
        mode=mode,
        mode_now=mode_now,
        status=outcome.status,
        steps=steps,
        error=outcome.error,
        plan=outcome.plan,
        exit_code=outcome.exit_code,
        notes=(*noted, *outcome.notes, *(f"{step.service}: {step.detail}" for step in steps if step.detail)),
    )
