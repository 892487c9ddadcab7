"""plugins_new, plugins_check: for authors of plugins."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpumod.domain.errors import Failed, GpumodError, UnknownName, UsageError
from gpumod.domain.service import Service
from gpumod.operations.base import Base
from gpumod.operations.plugin_results import (
    PluginCheck,
    PluginCheckResult,
    PluginNew,
    PluginNewResult,
    SuiteRow,
    SuiteTest,
)
from gpumod.plugins.entries import is_installed
from gpumod.plugins.offers import SupervisorOffer
from gpumod.plugins.offers import VramEstimatorOffer as EstimatorOffer
from gpumod.plugins.registry import OURS, Offered, Registry
from gpumod.ports.units import KeepsInside

Wanted = tuple[str, str, Offered[Any]]
"""A hook, the key of what is offered there, and the offer."""


class Plugging(Base):
    async def plugins_new(self, params: PluginNew) -> PluginNewResult:
        """Write a distribution with a driver and its tests. Raises UsageError `name-taken`, and what writing raises."""
        name, distribution, why = params.name, f"gpumod-{params.name}", ""
        if name in OURS:
            why = "it is a name of gpumod's own"
        elif is_installed(distribution):
            why = f"{distribution} is installed, and pip would put the new one in its place"
        elif name in self._machine.plugins.drivers:
            why = "of two offers of one name gpumod uses none, or its own"
        if why:
            raise UsageError("name-taken", f"{name!r} is somebody's already", why=why, hint="take another name")
        folder, files = self._tools.new_distribution(params.name, Path(params.folder).absolute())
        install, tested = shlex.quote(f"{folder}[test]"), shlex.quote(str(folder))
        told = (f"pip install -e {install}", f"pytest {tested}", f"gpumod plugins check {params.name}")
        return PluginNewResult(folder=str(folder), files=files, next=told)

    async def plugins_check(self, params: PluginCheck) -> PluginCheckResult:
        """Run the suite of everything that is offered under this name. What no example is there for is left out, and
        said, as long as anything is tested.

        Raises UnknownName `unknown-offer`, UsageError `nothing-to-check` and `no-example`, and what running raises.
        """
        rows: list[SuiteRow] = []
        lacking: list[UsageError] = []
        for hook, key, offered in self._wanted(params.name):
            row = SuiteRow(kind=offered.kind, name=key, distribution=offered.distribution)
            try:
                examples = self._examples(hook, key, offered, params.presets)
            except UsageError as error:
                lacking.append(error)
                rows.append(row.model_copy(update={"untested": f"{error.info.message}; {error.info.hint}"}))
                continue
            request = {"hook": hook, "key": key, "services": [s.model_dump(mode="json") for s in examples]}
            tests = tuple(SuiteTest.model_validate(test) for test in await self._tools.run_suite(request))
            shown = tuple(service.id for service in examples)
            rows.append(row.model_copy(update={"examples": shown, "tests": tests}))
        if len(lacking) == len(rows):
            raise lacking[0]
        return PluginCheckResult(ok=not any(row.failed for row in rows), suites=tuple(rows))

    def _wanted(self, name: str) -> Sequence[Wanted]:
        """What is offered under `name` and can be checked."""
        plugins = self._machine.plugins
        registries: Mapping[str, Registry[Any]] = {
            "gpumod_drivers": plugins.drivers,
            "gpumod_vram_estimators": plugins.estimators,
            "gpumod_model_info_sources": plugins.info_sources,
            "gpumod_supervisors": plugins.supervisors,
        }
        found: list[Wanted] = [
            (hook, name, registry.offer(name)) for hook, registry in registries.items() if name in registry
        ]
        found += [("gpumod_sleep_strategies", key, offered) for key, offered in plugins.sleep_strategies.offered(name)]
        checkable = [wanted for wanted in found if not self._needs_more(wanted[0], wanted[2])]
        if checkable:
            return checkable
        others = sorted({offer.name for record in plugins.records for offer in record.offers})
        broken = next((record.error for record in plugins.records if record.error and record.name == name), None)
        if broken is not None:
            raise Failed(broken.code, broken.message, why=broken.why, hint=broken.hint)
        if name not in others:
            raise UnknownName(
                "unknown-offer",
                f"no plugin offers {name!r}",
                why=f"there are: {', '.join(others)}",
                hint="`gpumod plugins` tells what each offers, and why a broken one offers nothing",
            )
        raise UsageError(
            "nothing-to-check",
            f"there is no suite for {name!r}",
            why="what it needs around it no suite can bring"
            if found
            else "it is of another kind than those with suites",
            hint="there are suites for drivers, sleep levels, VRAM estimators, model info sources and supervisors",
        )

    def _needs_more(self, hook: str, offered: Offered[Any]) -> bool:
        """Of supervisors: whether it looks after what others set up, or needs images to start anything."""
        if hook != "gpumod_supervisors":
            return False
        adopts = isinstance(offered.offer, SupervisorOffer) and offered.offer.adopts
        return adopts or isinstance(self._machine.supervisor(offered.offer.name), KeepsInside)

    def _examples(self, hook: str, key: str, offered: Offered[Any], presets: Sequence[str]) -> list[Service]:
        """Services to test with: those of the named presets, else all that are known, else a plain one.

        Raises UsageError `no-example`, and Failed `plugin-broken` where the driver cannot tell what it accepts.
        """
        if hook == "gpumod_supervisors":
            return []
        driver, _, level = key.partition("/")
        drivers: tuple[str, ...] = (driver,)
        if isinstance(offered.offer, EstimatorOffer):
            drivers = offered.offer.drivers or self._machine.plugins.drivers.names()
        elif hook == "gpumod_model_info_sources":
            drivers = self._machine.plugins.drivers.names()
        known = [service for service in self._known(presets) if service.driver in drivers]
        if not known and not presets:
            is_of_driver = hook in ("gpumod_drivers", "gpumod_sleep_strategies")
            known = [plain for name in drivers for plain in self._plain(name, level, may_break=not is_of_driver)]
        if level:
            known = [service for service in known if service.sleep_mode == level][:1]
        elif isinstance(offered.offer, EstimatorOffer):
            known = [service for service in known if _estimates(offered, service)]
        if known:
            return known
        raise UsageError(
            "no-example",
            f"there is no service to test the {offered.kind} {key!r} with",
            why=f"no preset and no definition of {' or '.join(drivers)} is a case for it",
            hint=f"gpumod plugins check {key.rpartition('/')[2]} --preset FILE, with services that show what it is for",
        )

    def _known(self, presets: Sequence[str]) -> Iterator[Service]:
        """The services of these files, or those of this home and of presets; the home's wins."""
        load, settings = self._tools.presets().load, self._machine.settings
        if presets:
            found = load([("", Path(path)) for path in presets], settings)
            for problem in found.problems:
                raise UsageError(problem.code, problem.message, why=problem.why, hint=problem.hint)
            yield from (entry.value for entry in found.services.values())
            return
        folders = [(offer.name, offer.folder) for offer in self._machine.plugins.presets]
        offered = {name: entry.value for name, entry in load(folders, settings).services.items()}
        yield from {**offered, **self._machine.store.services()}.values()

    def _plain(self, driver: str, level: str, *, may_break: bool) -> Iterator[Service]:
        """The plainest service that the driver accepts, if it does. Raises Failed `plugin-broken`, unless it may."""
        fields = {"id": "example", "driver": driver, "vram_mb": 4000, "sleep_mode": level or "none", "port": 8000}
        for more in ({"model_path": "/models/example"}, {"model_id": "org/example"}, {}):
            service = Service.model_validate({**fields, **more})
            try:
                self._machine.plugins.drivers.get(driver).check(service)
            except (GpumodError, ValueError) as error:
                if not may_break and isinstance(error, GpumodError) and error.code == "plugin-broken":
                    raise
                continue
            yield service
            return


def _estimates(offered: Offered[Any], service: Service) -> bool:
    """Whether the estimator says anything of the service; one that fails is left to its suite."""
    try:
        return offered.make().estimate(service, 24_564, None) is not None
    except Exception:  # noqa: BLE001 - a stranger's
        return True
