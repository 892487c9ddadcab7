"""From a name that plugins offer to the case of its suite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpumod.adapters.clock import SystemClock
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.plugins.offers import SupervisorOffer
from gpumod.plugins.registry import Plugins
from gpumod.ports import Supervisor
from gpumod.testing.suites.cases import DriverCase, EstimatorCase, ModelInfoCase, SleepCase
from gpumod.testing.supervisor_bench import Bench

CLASSES = {
    "gpumod_drivers": "TestDriver",
    "gpumod_sleep_strategies": "TestSleepStrategy",
    "gpumod_vram_estimators": "TestEstimator",
    "gpumod_model_info_sources": "TestModelInfoSource",
    "gpumod_supervisors": "TestSupervisor",
}
"""Hook -> class of `collected.py`."""

Case = DriverCase | SleepCase | EstimatorCase | ModelInfoCase


def case_of(plugins: Plugins, hook: str, key: str, services: Sequence[Service]) -> Case:
    """The thing as its plugin made it: what it breaks is to fail the suite, in the words of the suite.

    Raises what making it raises (`plugin-broken`).
    """
    strategy = plugins.sleep_strategies.offer
    if hook == "gpumod_drivers":
        levels = plugins.sleep_strategies.levels(key)
        strategies = {level: strategy(key, level).bare() for level in levels}
        return DriverCase(plugins.drivers.offer(key).bare(), services, strategies)
    if hook == "gpumod_sleep_strategies":
        driver, _, level = key.partition("/")
        return SleepCase(strategy(driver, level).bare(), services[0])
    if hook == "gpumod_vram_estimators":
        return EstimatorCase(key, plugins.estimators.get(key), services)
    return ModelInfoCase(plugins.info_sources.get(key), services)


def bench_of(plugins: Plugins, name: str, folder: Path) -> Bench:
    """A bench for the supervisor, in a home of its own."""
    offered = plugins.supervisors.offer(name)
    takes_templates = isinstance(offered.offer, SupervisorOffer) and offered.offer.takes_templates
    folders = ([offer.folder for offer in plugins.templates],) if takes_templates else ()

    def make(home: Path, settings: Settings) -> Supervisor:
        return offered.make(home, "0123456789ab", settings, SystemClock(), *folders)

    return Bench(folder / "home", make)
