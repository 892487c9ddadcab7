"""Handles in the database. What runs must not be forgotten: of a row that was broken by hand, the rest is used."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pydantic import ValidationError
from sqlmodel import Session

from gpumod.adapters.store.connect import Database, run_sql
from gpumod.adapters.store.definitions import read_modes, read_services, unknown
from gpumod.adapters.store.journal import add_event
from gpumod.adapters.store.rows import dump, load
from gpumod.adapters.store.state import read_settings
from gpumod.adapters.store.tables import HandleRow
from gpumod.domain.base import is_id
from gpumod.domain.errors import ErrorInfo, Failed
from gpumod.domain.run import Event, Handle
from gpumod.domain.service import Service

_ADOPTED = "SELECT id FROM services WHERE definition LIKE '%\"adopted\":{%'"
_HANDLES = "SELECT service, supervisor, nonce, started_at, definition FROM handles ORDER BY service"
_PUT_HANDLE = (
    "INSERT OR REPLACE INTO handles (service, supervisor, nonce, started_at, definition)"
    " VALUES (:service, :supervisor, :nonce, :started_at, :definition)"
)
_COLUMNS = frozenset({"service", "supervisor", "nonce", "started_at"})
_FOUND = "`gpumod service stop {row}` ends its process, which is found by its nonce, and clears the row"
_LOST = "`gpumod service remove {row}` clears the row; `gpumod ps` shows its process, if there is one"
UNKNOWN_DRIVER = "unknown"
"""The driver of a service of which nothing but its process is left."""


class Handles:
    """The part of the store that holds handles, and tells which rows of it are broken."""

    _db: Database

    def handles(self) -> Mapping[str, Handle]:
        """The handles by service. One whose row is broken has what is left: its nonce, and today's definition.

        What was adopted always has one, made of its definition: it may run without ever having been started here.
        """
        with self._db.read() as session:
            return _handles(session)[0]

    def put_handle(self, handle: Handle, *, event: Event) -> None:
        columns = {name: getattr(handle, name) for name in _COLUMNS}
        with self._db.write() as session:
            run_sql(session, _PUT_HANDLE, **columns, definition=dump(handle, _COLUMNS))
            add_event(session, event)

    def delete_handle(self, service_id: str, *, event: Event) -> None:
        """Raises UnknownName(`unknown-handle`). That of an adopted service goes with its definition."""
        with self._db.write() as session:
            row = session.get(HandleRow, service_id)
            if row is None and service_id not in _adopted(session):
                raise unknown("handle", service_id, ())
            if row is not None:
                session.delete(row)
            add_event(session, event)

    def problems(self) -> tuple[ErrorInfo, ...]:
        """What is wrong with rows of services, modes, settings (which are left out) and handles."""
        with self._db.read() as session:
            found = (read_services(session), read_modes(session), read_settings(session), _handles(session))
            return tuple(info for _, problems in found for info in problems)


def _handles(session: Session) -> tuple[dict[str, Handle], list[ErrorInfo]]:
    good: dict[str, Handle] = {}
    bad: list[ErrorInfo] = []
    for row in run_sql(session, _HANDLES):
        try:
            good[row.service] = _handle(*row)
        except Failed as error:
            left = _what_is_left(row, read_services(session)[0])
            hint = (_FOUND if left else _LOST).format(row=shlex.quote(str(row.service)))
            bad.append(error.info.model_copy(update={"hint": hint}))
            if left:
                good[row.service] = left
    return good | _with_adopted(session, good), bad


def _adopted(session: Session) -> dict[str, Service]:
    """The adopted services. The definitions are read only where there are any: this is asked in every step."""
    if next(iter(run_sql(session, _ADOPTED)), None) is None:
        return {}
    return {service: found for service, found in read_services(session)[0].items() if found.adopted}


def _with_adopted(session: Session, stored: Mapping[str, Handle]) -> dict[str, Handle]:
    """A handle for each adopted service. Its definition is today's: what runs was not launched from it anyhow."""
    found = {}
    for service in _adopted(session).values():
        known = stored.get(service.id)
        if service.adopted and not (known and known.launched.adopted is None):  # else gpumod's own still runs
            made = {"service": service.id, "supervisor": service.adopted.keeper, "nonce": "adopted", "started_at": 0.0}
            kept = known.model_dump(include={"token", "gpus", "device_mb", "served"}) if known else {}
            found[service.id] = Handle.model_validate({**made, **kept, "launched": service})
    return found


@lru_cache(maxsize=256)
def _handle(service: str, supervisor: str, nonce: str, started_at: float, definition: str) -> Handle:
    """A run reads the same few rows again and again, and what they become never changes."""
    columns = {"service": service, "supervisor": supervisor, "nonce": nonce, "started_at": started_at}
    return load(Handle, "handles", service, definition, columns)


def _what_is_left(row: Any, services: Mapping[str, Service]) -> Handle | None:
    """A handle made of what a broken row still says; None where it does not even name a service."""
    if not is_id(str(row.service)):
        return None
    said = _mapping(row.definition)
    token, gpus = said.get("token"), said.get("gpus")
    parts: Mapping[str, Any] = {
        "launched": said.get("launched"),
        "altered": said.get("altered"),
        "token": token if isinstance(token, dict) else {},
        "gpus": gpus,
        "started_at": row.started_at,
    }
    handle = Handle(
        service=row.service,
        supervisor=str(row.supervisor),
        nonce=str(row.nonce) or "lost",
        launched=services.get(row.service) or Service(id=row.service, driver=UNKNOWN_DRIVER),
        started_at=0.0,
    )
    for name, value in parts.items():  # each that is right is used
        try:
            known = Handle.model_validate({**handle.model_dump(), name: value})
        except ValidationError:
            continue
        handle = known if known.launched.id == row.service else handle
    return handle


def _mapping(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
