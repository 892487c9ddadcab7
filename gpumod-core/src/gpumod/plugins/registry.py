"""Registries: what was offered, by name; and `Plugins`, the frozen result of loading."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from gpumod.domain.base import Frozen
from gpumod.domain.errors import ErrorInfo, Failed, GpumodError, MachineLacks, UnknownName, UsageError
from gpumod.domain.footprint import Estimate
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins.answers import PROMISES, Kept
from gpumod.plugins.isolation import quietly, reason
from gpumod.plugins.offers import (
    GpuProbeOffer,
    ModelInfoSourceOffer,
    Offer,
    PresetsOffer,
    SupervisorOffer,
    TemplatesOffer,
)
from gpumod.plugins.offers import VramEstimatorOffer as EstimatorOffer
from gpumod.ports import Driver, GpuProbe, ModelInfo, ModelInfoSource, SleepStrategy, Supervisor, VramEstimator

T = TypeVar("T")

INSTALL = {extra: f'pip install "gpumod[{extra}]"' for extra in ("vllm", "llamacpp", "fastapi", "docker", "sim")}
INSTALL["ollama"] = INSTALL["fastapi"]
INSTALL["adopted-container"] = INSTALL["docker"]
"""What to install for the names that first-party distributions offer."""

OURS = frozenset({*INSTALL, "core", "presets", "mcp", "tui"})
"""Names that no stranger's plugin may have: of what gpumod's own distributions offer, and of `gpumod-NAME` itself, in
whose place pip would put the stranger's."""


class OfferRecord(Frozen):
    """One thing that a plugin offers. `kind` is `driver`, `sleep-level`, `supervisor` and so on."""

    kind: str
    name: str
    summary: str


class PluginRecord(Frozen):
    """One plugin as `gpumod plugins` shows it.

    `error` says why it was not loaded (then it offers nothing), `disabled` which variable keeps it out, `problems`
    which single offers of a loaded plugin were refused and why.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    offers: tuple[OfferRecord, ...] = ()
    error: ErrorInfo | None = None
    disabled: str = ""
    problems: tuple[ErrorInfo, ...] = ()


class Offered(Generic[T]):
    """One offer and whose it is. Its factory is called at the first use, and again only for other arguments."""

    def __init__(self, kind: str, offer: Offer, distribution: str) -> None:
        self.kind = kind
        self.offer = offer
        self.distribution = distribution
        self._made: tuple[tuple[Any, ...], tuple[T, T]] | None = None
        self._making = threading.Lock()

    def make(self, *args: Any) -> T:
        """The object; of a driver or a sleep strategy what keeps it to its word (:class:`Kept`).

        Raises Failed (`plugin-broken`) when the factory raises; a GpumodError passes as it is.
        """
        return self._made_of(args)[1]

    def bare(self, *args: Any) -> T:
        """The object as its plugin made it, for suites: they tell what it breaks. Raises as :meth:`make`."""
        return self._made_of(args)[0]

    def _made_of(self, args: tuple[Any, ...]) -> tuple[T, T]:
        with self._making:
            if self._made is None or self._made[0] != args:
                self._made = (args, self._fresh(args))
            return self._made[1]

    def _fresh(self, args: tuple[Any, ...]) -> tuple[T, T]:
        factory = self.offer.factory  # type: ignore[attr-defined]  # the loader checked that it has one
        try:
            with quietly():
                thing: Any = factory(*args)
        except GpumodError:
            raise
        except (Exception, SystemExit) as exc:
            raise Failed(
                "plugin-broken",
                f"the {self.kind} {self.offer.name!r} of {self.distribution} cannot be made",
                why=reason(exc),
                hint=f"reinstall or uninstall {self.distribution}; `gpumod plugins` shows what else it offers",
                distribution=self.distribution,
            ) from exc
        if self.kind not in PROMISES:
            return thing, thing
        kept: Any = Kept(thing, self.kind, self.offer.name, self.distribution)
        return thing, kept


class Registry(Generic[T]):
    """Objects of one kind by name. `hints` maps a name that may be asked for to what to do when it is not there."""

    def __init__(
        self,
        kind: str,
        offered: Mapping[str, Offered[T]],
        conflicts: Mapping[str, ErrorInfo] | None = None,
        hints: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self._offered = dict(offered)
        self._conflicts = dict(conflicts or {})
        self._hints = dict(hints or {})

    def names(self) -> tuple[str, ...]:
        """What can be had, sorted."""
        return tuple(sorted(self._offered))

    def __contains__(self, name: object) -> bool:
        return name in self._offered

    def offer(self, name: str) -> Offered[T]:
        """The offer called `name`. Raises UnknownName, or UsageError (`duplicate-offer`) when two plugins claim it."""
        if name in self._offered:
            return self._offered[name]
        if name in self._conflicts:
            conflict = self._conflicts[name]
            raise UsageError(
                conflict.code, conflict.message, why=conflict.why, hint=conflict.hint, **dict(conflict.details)
            )
        raise UnknownName(
            f"unknown-{self.kind.lower().replace(' ', '-')}",
            f"there is no {self.kind} {name!r}",
            why=f"there are: {', '.join(self._choice())}" if self._offered else f"no plugin offers a {self.kind}",
            hint=self._hint(name),
        )

    def get(self, name: str, *args: Any) -> T:
        """The object called `name`, made once (supervisors and probes take arguments; the same ones give the same
        object). Raises what :meth:`offer` and :meth:`Offered.make` raise."""
        return self.offer(name).make(*args)

    def _choice(self) -> tuple[str, ...]:
        """What somebody may ask for by its name: supervisors for what was adopted are nobody's choice."""
        return tuple(name for name in self.names() if not getattr(self._offered[name].offer, "adopts", False))

    def _hint(self, name: str) -> str:
        if name in self._hints:
            return self._hints[name]
        if close := difflib.get_close_matches(name, self._choice(), n=3, cutoff=0.5):
            return f"did you mean {' or '.join(close)}?"
        close = difflib.get_close_matches(name, self._hints, n=1, cutoff=0.75)
        return f"did you mean {close[0]}? {self._hints[close[0]]}" if close else "`gpumod plugins` lists what there is"


class SleepStrategies:
    """Sleep strategies by driver and level."""

    def __init__(self, registry: Registry[SleepStrategy]) -> None:
        self._registry = registry

    @staticmethod
    def key(driver: str, level: str) -> str:
        return f"{driver}/{level}"

    def levels(self, driver: str) -> tuple[str, ...]:
        """The levels at which services of `driver` can sleep, sorted."""
        keys = (key.split("/") for key in self._registry.names())
        return tuple(level for owner, level in keys if owner == driver)

    def offered(self, level: str) -> tuple[tuple[str, Offered[SleepStrategy]], ...]:
        """The offers of `level`, by key, of every driver."""
        keys = [key for key in self._registry.names() if key.partition("/")[2] == level]
        return tuple((key, self._registry.offer(key)) for key in keys)

    def get(self, driver: str, level: str) -> SleepStrategy:
        """Raises as :meth:`offer` and :meth:`Offered.make`."""
        return self.offer(driver, level).make()

    def offer(self, driver: str, level: str) -> Offered[SleepStrategy]:
        """Raises UnknownName (`unknown-sleep-level`) and as :meth:`Registry.offer`."""
        key = self.key(driver, level)
        try:
            return self._registry.offer(key)
        except UnknownName as exc:
            levels = self.levels(driver)
            raise UnknownName(
                exc.code,
                f"services of driver {driver!r} cannot sleep at level {level!r}",
                why=f"they can at: {', '.join(levels)}" if levels else "no plugin offers it a way to sleep",
                hint=f"set sleep_mode to {' or '.join((*levels, 'none'))}",
            ) from exc


@dataclass(frozen=True)
class Plugins:
    """Everything that was offered, and how each plugin fared.

    `presets` and `templates` are the folders offered, by name; a name that two plugins claim is left out.
    """

    drivers: Registry[Driver]
    sleep_strategies: SleepStrategies
    estimators: Registry[VramEstimator]
    info_sources: Registry[ModelInfoSource]
    supervisors: Registry[Supervisor]
    gpu_probes: Registry[GpuProbe]
    presets: tuple[PresetsOffer, ...] = ()
    templates: tuple[TemplatesOffer, ...] = ()
    records: tuple[PluginRecord, ...] = field(default=())

    def check_supervisor(self, name: str) -> None:
        """Raise UsageError `no-choice` for a supervisor that nobody chooses, and as :meth:`Registry.offer`."""
        offer = self.supervisors.offer(name).offer
        if isinstance(offer, SupervisorOffer) and offer.adopts:
            raise UsageError(
                "no-choice",
                f"{name!r} keeps no service that gpumod starts",
                why="it is for what was adopted alone",
                hint="process, systemd-user and systemd-system do",
            )

    def gpu_probe(self, settings: Settings) -> GpuProbe:
        """The probe that the setting names, else the first available one.

        Raises MachineLacks (`no-gpu-probe`) with the reason of each that cannot be used (of the one that is set, what
        it raises itself), and as :meth:`Registry.get`.
        """
        wanted = settings.gpu_probe
        names = (wanted,) if wanted else self._by_order(self.gpu_probes)
        refused: list[str] = []
        for name in names:
            offered = self.gpu_probes.offer(name)
            why_not = unavailable(offered.offer, settings, wanted=bool(wanted))
            if why_not is None:
                return offered.make(settings)
            refused.append(f"{name}: {why_not}")
        raise MachineLacks(
            "no-gpu-probe",
            f"the GPU probe {wanted!r} cannot be used" if wanted else "no GPU can be read",
            why="; ".join(refused) or "no plugin offers a GPU probe",
            hint="`gpumod init --sim NAME:MB` makes a simulated machine; `gpumod doctor` tells what is missing",
        )

    def simulator(self) -> GpuProbeOffer:
        """What makes simulated machines: its `create_machine` is set. Raises MachineLacks (`no-simulation`)."""
        for name in self.gpu_probes.names():
            offer = self.gpu_probes.offer(name).offer
            if isinstance(offer, GpuProbeOffer) and offer.create_machine is not None:
                return offer
        raise MachineLacks("no-simulation", "no plugin can simulate a machine", hint='pip install "gpumod[sim]"')

    def estimate(self, service: Service, gpu_total_mb: int, info: ModelInfo | None) -> tuple[Estimate, ...]:
        """What every estimator that serves the service's driver says. One that fails says so in its `why`."""
        estimates: list[Estimate] = []
        for name in self.estimators.names():
            offered = self.estimators.offer(name)
            drivers = offered.offer.drivers if isinstance(offered.offer, EstimatorOffer) else ()
            if drivers and service.driver not in drivers:
                continue
            try:
                estimate = offered.make().estimate(service, gpu_total_mb, info)
            except GpumodError as exc:
                estimate = Estimate(estimator=name, why=f"failed: {exc.info.message} {exc.info.why}".rstrip())
            except Exception as exc:  # noqa: BLE001  # a stranger's estimator must not stop the others
                estimate = Estimate(estimator=name, why=f"failed: {reason(exc)}")
            if estimate is not None:
                estimates.append(estimate)
        return tuple(estimates)

    def model_info(self, service: Service, settings: Settings) -> ModelInfo | None:
        """What the sources know about the service's model, merged field by field; the first in order wins a field.

        A source that fails stands in `provenance` under `failed:NAME`. None when nobody knows anything.
        """
        answers: list[ModelInfo] = []
        failures: dict[str, str] = {}
        for name in self._by_order(self.info_sources):
            try:
                answer = self.info_sources.get(name).info(service, settings)
            except GpumodError as exc:
                failures[f"failed:{name}"] = f"{exc.info.message} {exc.info.why}".rstrip()
            except Exception as exc:  # noqa: BLE001  # a stranger's source must not stop the others
                failures[f"failed:{name}"] = reason(exc)
            else:
                if answer is not None:
                    provenance = {key: answer.provenance.get(key, name) for key in answer.fields}
                    answers.append(answer.model_copy(update={"provenance": provenance}))
        merged = merge_info(answers)
        if merged is None:
            return ModelInfo(model=service.model_id or service.id, provenance=failures) if failures else None
        return merged.model_copy(update={"provenance": {**merged.provenance, **failures}})

    @staticmethod
    def _by_order(registry: Registry[Any]) -> list[str]:
        def order(name: str) -> tuple[int, str]:
            offer = registry.offer(name).offer
            return (offer.order, name) if isinstance(offer, GpuProbeOffer | ModelInfoSourceOffer) else (100, name)

        return sorted(registry.names(), key=order)


def merge_info(answers: Sequence[ModelInfo]) -> ModelInfo | None:
    """One answer of several, field by field: the first that knows a field wins. Pure."""
    if not answers:
        return None
    fields: dict[str, Any] = {}
    provenance: dict[str, str] = {}
    for answer in answers:
        for key in answer.fields.keys() - fields.keys():
            fields[key] = answer.fields[key]
            provenance[key] = answer.provenance.get(key, "")
    return ModelInfo(model=answers[0].model, fields=fields, provenance=provenance)


def install_hints(records: Iterable[PluginRecord]) -> dict[str, str]:
    """What to do about a name that is not there: install it, or enable or repair the plugin that offers it."""
    hints = dict(INSTALL)
    for record in records:
        if record.disabled:
            hints[record.name] = f"the plugin {record.name} is kept out by {record.disabled}"
        elif record.error is not None and record.distribution:
            hints[record.name] = f"{record.error.message}: {record.error.why}"
    return hints


def unavailable(offer: Offer, settings: Settings, *, wanted: bool = False) -> str | None:
    """Why a probe cannot be used with these settings, or None. One that is `wanted` raises its own error."""
    assert isinstance(offer, GpuProbeOffer)  # noqa: S101  # the loader checked it
    try:
        return offer.available(settings)
    except GpumodError as error:
        if wanted:
            raise
        return f"{error.info.message} ({error.info.why})"
    except Exception as exc:  # noqa: BLE001  # a stranger's probe must not stop the others
        return reason(exc)
