"""What the suites are given: the object that is offered, and services that show what it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings

from gpumod.domain.footprint import split
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Allocation, Driver, GpuShare, ModelInfoSource, SleepStrategy, VramEstimator
from gpumod.testing.web import Answer, Call

TOTAL_MB = 24_564
"""The card on which examples are placed: one of 24 GB."""

asked = settings(
    max_examples=20,
    deadline=None,
    database=None,
    derandomize=True,  # the same verdict for the same plugin, wherever it is asked
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
"""Properties of inherited tests: hypothesis warns of fixtures and of several subclasses, which nothing here minds."""


@dataclass(frozen=True)
class DriverCase:
    """A driver, services that it accepts (at least one), and its sleep strategies by level, where it has any.

    Give several services where it runs in several ways: a host and its members, one that sleeps at each level.
    """

    driver: Driver
    services: Sequence[Service]
    strategies: Mapping[str, SleepStrategy] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)

    @property
    def started(self) -> list[Service]:
        """The examples that have a process of their own: all but members of a host."""
        return [service for service in self.services if service.host is None]

    @property
    def hosts(self) -> list[Service]:
        return [service for service in self.services if self.driver.capabilities(service).hosts_members]

    def members(self, host: Service) -> list[tuple[Service, Allocation]]:
        return [(service, place(service)) for service in self.services if service.host == host.id]


@dataclass(frozen=True)
class SleepCase:
    """A sleep strategy and a service whose `sleep_mode` is its level.

    `server` makes what answers as the awake runtime would, a function from a call to status and body; with it, whole
    naps are tested. `driver` is then asked whether it sees the service asleep.
    """

    strategy: SleepStrategy
    service: Service
    server: Callable[[], Callable[[Call], Answer]] | None = None
    driver: Driver | None = None


@dataclass(frozen=True)
class EstimatorCase:
    """An estimator by the name under which it is offered, and services of which it estimates at least one."""

    name: str
    estimator: VramEstimator
    services: Sequence[Service]


@dataclass(frozen=True)
class ModelInfoCase:
    """A source of model information, and services of which it knows at least one's model."""

    source: ModelInfoSource
    services: Sequence[Service]
    settings: Settings = field(default_factory=Settings)


def place(service: Service) -> Allocation:
    """The service on its GPUs, or on the first of cards of 24 GB; a host and its members see every GPU."""
    gpus = (0,) if service.gpus == "any" else service.gpus
    shares = split(service.vram_mb, gpus)
    return Allocation(
        gpus=tuple(
            GpuShare(index=gpu, total_mb=TOTAL_MB, budget_mb=TOTAL_MB, vram_mb=shares.get(gpu, 0)) for gpu in gpus
        ),
        visible=tuple(sorted({0, *gpus})),
    )
