"""Settings, and the current and the previous mode, which are kept beside them under keys that no setting can have."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError
from sqlmodel import Session, select

from gpumod.adapters.store.connect import Database, run_sql
from gpumod.adapters.store.journal import add_event
from gpumod.adapters.store.rows import bad_row
from gpumod.adapters.store.tables import SettingRow
from gpumod.domain.base import is_id
from gpumod.domain.errors import ErrorInfo
from gpumod.domain.run import Event
from gpumod.domain.settings import Settings
from gpumod.domain.words import said

_CURRENT = "mode.current"
_PREVIOUS = "mode.previous"
_WITH = ".with"
"""Added to either: the alternative with which that mode was taken."""


class State:
    """The part of the store that holds settings and the mode that the machine is in."""

    _db: Database

    def settings(self) -> Mapping[str, str]:
        """The settings that were set, as text; those whose row is not valid are left out."""
        with self._db.read() as session:
            return read_settings(session)[0]

    def put_setting(self, key: str, value: str | None, *, event: Event) -> None:
        """Set a setting, or with None go back to its default."""
        with self._db.write() as session:
            _put(session, key, value, event.at)
            add_event(session, event)

    def current_mode(self) -> str | None:
        with self._db.read() as session:
            return _get(session, _CURRENT)

    def previous_mode(self) -> str | None:
        """The mode before the current one (`gpumod switch -`)."""
        with self._db.read() as session:
            return _get(session, _PREVIOUS)

    def current_alternative(self) -> str | None:
        """The alternative of the current mode that was taken."""
        with self._db.read() as session:
            return _get(session, _CURRENT + _WITH)

    def previous_alternative(self) -> str | None:
        """The alternative of the previous mode that had been taken."""
        with self._db.read() as session:
            return _get(session, _PREVIOUS + _WITH)


def read_settings(session: Session) -> tuple[dict[str, str], list[ErrorInfo]]:
    """The valid settings, and what is wrong with the others. Keys that this version does not know are let be."""
    good: dict[str, str] = {}
    bad: list[ErrorInfo] = []
    for row in session.exec(select(SettingRow).order_by(SettingRow.key)):
        if "." in row.key:
            continue
        try:
            if row.key in Settings.model_fields and row.value:
                Settings.model_validate({row.key: row.value})
            good[row.key] = row.value
        except ValidationError as error:
            what = said(error.errors(include_url=False)[0])
            bad.append(bad_row("settings", row.key, "value", f"is wrong: {what}").info)
    return good, bad


def enter_mode(session: Session, mode: str | None, alternative: str | None, at: float) -> None:
    """Record the mode that the machine is in now (None: none of the modes), and the alternative of it."""
    left, left_with = _get(session, _CURRENT), _get(session, _CURRENT + _WITH)
    _put(session, _CURRENT + _WITH, alternative if mode is not None else None, at)
    if left == mode:
        return
    if left is not None:
        _put(session, _PREVIOUS, left, at)
        _put(session, _PREVIOUS + _WITH, left_with, at)
    _put(session, _CURRENT, mode, at)
    add_event(session, Event(at=at, kind="mode-changed", subject=mode or "", data={"from": left, "to": mode}))


def forget_mode(session: Session, mode: str) -> None:
    for key in (_CURRENT, _PREVIOUS):
        if _get(session, key) == mode:
            _put(session, key, None, 0.0)
            _put(session, key + _WITH, None, 0.0)


def _get(session: Session, key: str) -> str | None:
    value = run_sql(session, "SELECT value FROM settings WHERE key = :key", key=key).scalar()
    return value if isinstance(value, str) and is_id(value) else None


def _put(session: Session, key: str, value: str | None, at: float) -> None:
    if value is None:
        run_sql(session, "DELETE FROM settings WHERE key = :key", key=key)
        return
    row = {"key": key, "value": value, "at": at}
    run_sql(session, "INSERT OR REPLACE INTO settings (key, value, updated_at) VALUES (:key, :value, :at)", **row)
