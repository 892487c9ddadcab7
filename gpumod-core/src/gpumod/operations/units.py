"""service unit, template ...: what systemd is given, and what that is made of."""

from __future__ import annotations

import asyncio
import difflib

from gpumod.domain.base import is_id
from gpumod.domain.errors import UsageError
from gpumod.domain.machine import HostSnapshot
from gpumod.domain.run import Handle
from gpumod.domain.service import Service
from gpumod.domain.states import GONE
from gpumod.domain.words import ID_RULE
from gpumod.engine.asking import PATIENCE_S
from gpumod.engine.footprints import placed_on
from gpumod.engine.machine import HOSTED
from gpumod.engine.observe import observe
from gpumod.engine.preflight import bad_service
from gpumod.engine.starting import allocate
from gpumod.engine.suiting import launch_of
from gpumod.operations.base import Base, drift
from gpumod.operations.params import NoParams, TemplateEdit, TemplateRef, TemplateRender, UnitParams
from gpumod.operations.unit_results import TemplateListResult, TemplateResult, TemplateRow, UnitResult
from gpumod.ports import Launch
from gpumod.ports.units import UnitText, WritesUnits

UNIT_SUFFIX = ".service.j2"
ANY_WRITER = "systemd-user"
"""Where a service of another supervisor is shown as a unit."""


class Units(Base):
    async def service_unit(self, params: UnitParams) -> UnitResult:
        """The unit of a service as it would be written now, and its difference to what is there. Nothing is started."""
        service = self._service(params.service)
        name, writer = self._writer(service)
        handle, launch = await self._launch(service, name, await observe(self._machine))
        unit = writer.unit(handle, launch)
        if params.write:
            await writer.install(handle, launch)
        return _shown(service, name, unit, written=params.write and unit.there != unit.text)

    async def template_list(self, params: NoParams) -> TemplateListResult:
        """Every template: whose it is, and what yours hide."""
        shelf = self._tools.templates()
        rows = []
        for name in shelf.names():
            (source, path), *hidden = shelf.places(name)
            rows.append(TemplateRow(name=name, source=source, path=str(path), hides=tuple(s for s, _ in hidden)))
        return TemplateListResult(templates=tuple(rows), folder=str(shelf.user_folder))

    async def template_show(self, params: TemplateRef) -> TemplateResult:
        """The text of a template that counts."""
        return self._template(params.template)

    async def template_render(self, params: TemplateRender) -> UnitResult:
        """The unit that a service would have if it were made of this template."""
        service = self._service(params.service)
        if not params.template.endswith(UNIT_SUFFIX):
            hint = "gpumod template list"
            raise UsageError(
                "not-a-unit",
                f"{params.template!r} does not make a unit",
                why=f"its name does not end with {UNIT_SUFFIX}",
                hint=hint,
            )
        self._template(params.template)
        name, writer = self._writer(service, otherwise=ANY_WRITER)
        handle, launch = await self._launch(service, name, await observe(self._machine))
        return _shown(service, name, writer.unit(handle, launch, params.template))

    async def template_edit(self, params: TemplateEdit) -> TemplateResult:
        """Put a template into your folder, where it wins; None takes yours back. No service is restarted.

        A text that counts already is not put there: it would hide what an upgrade brings.
        """
        shelf = self._tools.templates()
        if not is_id(params.template) or not params.template.endswith(".j2"):
            raise UsageError(
                "bad-template-name",
                f"{params.template!r:.100} cannot name a template",
                why=f"it is to end with .j2, and to be of {ID_RULE}",
                hint="`gpumod template list` shows those that count now",
            )
        if params.text is None:
            places = shelf.places(params.template)  # raises UnknownName for one that nobody has
            changed = shelf.remove(params.template)
            if changed and len(places) == 1:
                return TemplateResult(name=params.template, source="", path="", text="", changed=True)
        else:
            changed = shelf.write(params.template, params.text)
        return self._template(params.template).model_copy(update={"changed": changed})

    def _template(self, name: str) -> TemplateResult:
        shelf = self._tools.templates()
        source, path = shelf.places(name)[0]
        services = self._machine.store.services().values()
        made = sorted(s.id for s in services if name == (s.unit_template or s.driver + UNIT_SUFFIX))
        return TemplateResult(name=name, source=source, path=str(path), text=shelf.text(name), services=tuple(made))

    def _writer(self, service: Service, otherwise: str | None = None) -> tuple[str, WritesUnits]:
        """What writes the unit of a service. Raises UsageError (`no-unit`) where nothing does."""
        name = self._machine.supervisor_name(service)
        supervisor = None if name == HOSTED else self._machine.supervisor(name)
        if isinstance(supervisor, WritesUnits):
            return name, supervisor
        if otherwise and service.host is None:
            other = self._machine.supervisor(otherwise)
            if isinstance(other, WritesUnits):
                return otherwise, other
        raise UsageError(
            "no-unit",
            f"service {service.id!r} has no unit",
            why=f"it lives in {service.host}" if service.host else f"the supervisor {name} keeps it",
            hint=f"gpumod service unit {service.host}"
            if service.host
            else "gpumod settings set supervisor systemd-user; or for this service alone: --run-with systemd-user",
        )

    async def _drift(self, service: Service, handle: Handle | None, snapshot: HostSnapshot) -> tuple[str, ...]:
        """In what the definition differs from what runs: the fields; `unit` where it is just how that is written."""
        fields = drift(service, snapshot.reading(service.id))
        return fields or (("unit",) if await self._unit_differs(service, handle, snapshot) else ())

    async def _unit_differs(self, service: Service, handle: Handle | None, snapshot: HostSnapshot) -> bool:
        """True for a service that is up with a unit other than would be written now: by another gpumod, or by hand."""
        if handle is None or snapshot.reading(service.id).state in GONE:
            return False
        try:
            supervisor = self._machine.supervisor(handle.supervisor) if handle.supervisor != HOSTED else None
            if not isinstance(supervisor, WritesUnits):
                return False
            for suiting in (False, True):  # a program is asked only where that may matter, and not for long
                async with asyncio.timeout(PATIENCE_S):
                    launch = await self._launch(service, handle.supervisor, snapshot, suiting=suiting)
                unit = supervisor.unit(*launch)
                if unit.there is None or unit.there == unit.text:
                    return False
        except Exception:  # noqa: BLE001 - it cannot be written now, be it for a driver's bug: `service unit` tells why
            return False
        return True

    async def _launch(
        self, service: Service, supervisor: str, snapshot: HostSnapshot, *, suiting: bool = True
    ) -> tuple[Handle, Launch]:
        """How the service would be started: where it is now, else on the first GPU (or those that it names); without
        `suiting` by the newest program that its driver knows."""
        machine = self._machine
        first = tuple(gpu.index for gpu in snapshot.gpus)[:1]
        seat = placed_on(snapshot, service.id) or (first if service.gpus == "any" else service.gpus)
        driver = machine.driver(service)
        try:
            driver.check(service)
            allocation = allocate(machine, snapshot, service, seat)
            launch = machine.launch(service, allocation, supervisor)
            if suiting:
                launch = await launch_of(machine, service, allocation, supervisor)
        except ValueError as error:
            raise bad_service(service, error) from error
        handle = Handle(
            service=service.id, supervisor=supervisor, nonce="", launched=service, gpus=seat, started_at=snapshot.at
        )
        return handle, launch


def _shown(service: Service, supervisor: str, unit: UnitText, *, written: bool = False) -> UnitResult:
    now = "" if unit.there is None else unit.there
    lines = difflib.unified_diff(
        now.splitlines(), unit.text.splitlines(), "there", "would be written", lineterm="", n=2
    )
    return UnitResult(
        service=service.id,
        supervisor=supervisor,
        unit=unit.name,
        path=str(unit.path),
        template=unit.template,
        text=unit.text,
        there=unit.there is not None,
        edited=unit.edited,
        difference="" if unit.there is None else "\n".join(lines),
        written=written,
    )
