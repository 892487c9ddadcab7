"""Services and modes in the database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from sqlmodel import Session, col, delete, select

from gpumod.adapters.store.connect import Database
from gpumod.adapters.store.journal import add_event
from gpumod.adapters.store.rows import dump, load, parse_strings
from gpumod.adapters.store.state import forget_mode
from gpumod.adapters.store.tables import ModeRow, ModeServiceRow, ServiceRow
from gpumod.domain.errors import ErrorInfo, Failed, GpumodError, UnknownName
from gpumod.domain.mode import Mode
from gpumod.domain.run import Event
from gpumod.domain.service import Service

_SERVICE_COLUMNS = frozenset({"id", "driver", "port", "vram_mb", "role", "host"})


class Definitions:
    """The part of the store that holds what users and presets define."""

    _db: Database

    def services(self) -> Mapping[str, Service]:
        """Every service whose row is valid, by id in order. :meth:`problems` names the others."""
        with self._db.read() as session:
            return read_services(session)[0]

    def put_service(self, service: Service, *, event: Event, user_edited: Sequence[str] = ()) -> None:
        """Add or replace a service. `user_edited` replaces the fields that were marked as edited by the user."""
        row = ServiceRow(
            **{name: getattr(service, name) for name in _SERVICE_COLUMNS},
            definition=dump(service, _SERVICE_COLUMNS),
            user_edited=json.dumps(sorted(set(user_edited))),
            updated_at=event.at,
        )
        with self._db.write() as session:
            session.merge(row)
            add_event(session, event)

    def user_edited(self, service_id: str) -> frozenset[str]:
        """The fields that the user edited; none for a service that is not there."""
        with self._db.read() as session:
            row = session.get(ServiceRow, service_id)
            if row is None:
                return frozenset()
            return frozenset(parse_strings("services", service_id, "user_edited", row.user_edited))

    def delete_service(self, service_id: str, *, event: Event) -> None:
        """Raises UnknownName(`unknown-service`), and Failed(`service-in-use`) while a mode names it."""
        with self._db.write() as session:
            row = session.get(ServiceRow, service_id)
            if row is None:
                raise unknown("service", service_id, session.exec(select(ServiceRow.id)))
            members = select(ModeServiceRow.mode_id).where(ModeServiceRow.service_id == service_id).distinct()
            modes = sorted(session.exec(members))
            if modes:
                raise Failed(
                    "service-in-use",
                    f"service {service_id} is a member of {', '.join(modes)}",
                    why="a mode without its member would no longer mean the same",
                    hint=f"take it out first: `gpumod mode edit {modes[0]}`, or `gpumod mode delete {modes[0]}`",
                    modes=modes,
                )
            session.delete(row)
            add_event(session, event)

    def modes(self) -> Mapping[str, Mode]:
        """Every mode whose rows are valid, by id in order. :meth:`problems` names the others."""
        with self._db.read() as session:
            return read_modes(session)[0]

    def put_mode(self, mode: Mode, *, event: Event, user_edited: bool = False) -> None:
        """Add or replace a mode. `user_edited` replaces the mark that the user edited it."""
        row = ModeRow(
            id=mode.id, name=mode.name, description=mode.description, user_edited=user_edited, updated_at=event.at
        )
        with self._db.write() as session:
            session.merge(row)
            session.exec(delete(ModeServiceRow).where(col(ModeServiceRow.mode_id) == mode.id))
            session.flush()
            session.add_all(
                ModeServiceRow(
                    mode_id=mode.id,
                    position=position,
                    service_id=member.service,
                    want=member.want.value,
                    start_order=member.start_order,
                    idle_timeout=member.idle_timeout,
                )
                for position, member in enumerate(mode.members)
            )
            add_event(session, event)

    def mode_user_edited(self, mode_id: str) -> bool:
        """True when the user edited the mode; False for one that is not there."""
        with self._db.read() as session:
            row = session.get(ModeRow, mode_id)
            return row is not None and bool(row.user_edited)

    def delete_mode(self, mode_id: str, *, event: Event) -> None:
        """Raises UnknownName(`unknown-mode`). A deleted mode is no longer the current or the previous one."""
        with self._db.write() as session:
            row = session.get(ModeRow, mode_id)
            if row is None:
                raise unknown("mode", mode_id, session.exec(select(ModeRow.id)))
            session.delete(row)
            forget_mode(session, mode_id)
            add_event(session, event)


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a name that is not there, with the ones that are close to it."""
    close = get_close_matches(name, list(known), n=3)
    return UnknownName(
        f"unknown-{kind}",
        f"there is no {kind} {name!r}",
        hint=f"did you mean {', '.join(close)}?" if close else f"`gpumod {kind} list` shows what there is",
        close=close,
    )


def read_services(session: Session) -> tuple[dict[str, Service], list[ErrorInfo]]:
    """The valid services, and what is wrong with the others."""
    good: dict[str, Service] = {}
    bad: list[ErrorInfo] = []
    for row in session.exec(select(ServiceRow).order_by(ServiceRow.id)):
        columns = {name: getattr(row, name) for name in _SERVICE_COLUMNS}
        try:
            service = load(Service, "services", row.id, row.definition, columns)
            parse_strings("services", row.id, "user_edited", row.user_edited)
            good[row.id] = service
        except GpumodError as error:
            bad.append(error.info)
    return good, bad


def read_modes(session: Session) -> tuple[dict[str, Mode], list[ErrorInfo]]:
    """The valid modes, and what is wrong with the others."""
    members: dict[str, list[dict[str, object]]] = {}
    in_order = select(ModeServiceRow).order_by(col(ModeServiceRow.mode_id), col(ModeServiceRow.position))
    for member in session.exec(in_order):
        columns = ("want", "start_order", "idle_timeout")
        said = {"service": member.service_id, **{name: getattr(member, name) for name in columns}}
        members.setdefault(member.mode_id, []).append(said)
    good: dict[str, Mode] = {}
    bad: list[ErrorInfo] = []
    for row in session.exec(select(ModeRow).order_by(ModeRow.id)):
        told = {
            "id": row.id,
            "name": row.name,
            "description": row.description,
            "members": members.get(row.id, []),
        }
        try:
            good[row.id] = load(Mode, "modes", row.id, "{}", told)
        except GpumodError as error:
            bad.append(error.info)
    return good, bad
