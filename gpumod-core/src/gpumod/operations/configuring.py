"""settings, plugins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from gpumod.domain.errors import ErrorInfo
from gpumod.domain.settings import Settings
from gpumod.engine.leftovers import sweep_now
from gpumod.operations.base import Base, unknown
from gpumod.operations.lost import lost_database
from gpumod.operations.params import NoParams, SettingRef, SettingWrite
from gpumod.operations.results import PluginRow, PluginsResult, SettingRow, SettingsResult
from gpumod.plugins.offers import PLUGIN_API


class Configuring(Base):
    def settings_effective(self) -> Settings:
        """The settings in force: environment over database over defaults."""
        return self._machine.settings

    def database_lost(self) -> ErrorInfo | None:
        """What to say of this home's database, where it is a new one in the place of one that was lost."""
        return lost_database(self._machine)

    async def settings_list(self, params: NoParams) -> SettingsResult:
        """Every setting: its value in force, and where that comes from."""
        stored = self._machine.store.settings()
        return SettingsResult(settings=tuple(self._row(key, stored) for key in Settings.model_fields))

    async def settings_get(self, params: SettingRef) -> SettingRow:
        if params.key not in Settings.model_fields:
            raise unknown("setting", params.key, Settings.model_fields, "gpumod settings list")
        return self._row(params.key, self._machine.store.settings())

    async def settings_set(self, params: SettingWrite) -> SettingRow:
        """Store a setting, checked first; None restores the default."""
        if params.key not in Settings.model_fields:
            raise unknown("setting", params.key, Settings.model_fields, "gpumod settings list")
        value = None if params.value is None else self._tools.check_setting(params.key, params.value)
        self._check_offered(params.key, value)
        event = self._event("setting-changed", params.key, value=value)
        self._machine.store.put_setting(params.key, value, event=event)
        if params.key == "supervisor" and params.key not in self._tools.from_environment:
            settings = self._machine.settings.model_copy(update={"supervisor": value or Settings().supervisor})
            await sweep_now(replace(self._machine, settings=settings), "settings set supervisor")
        return self._row(params.key, self._machine.store.settings())

    def _row(self, key: str, stored: Mapping[str, str]) -> SettingRow:
        field = Settings.model_fields[key]
        default = None if field.default is None else str(field.default)
        value: str | None = default
        source: Literal["default", "database", "environment"] = "default"
        note, variable = "", self._tools.from_environment.get(key)
        if variable is not None:
            value, source = str(getattr(self._machine.settings, key)), "environment"
            kept = f"the stored {stored[key]!r}" if key in stored else "the default"
            note = f"{variable} in the environment wins over {kept} while it is set"
        elif key in stored:
            value, source = stored[key], "database"
            note = self._tools.doubt_about(key, value)
        elif (wrong := self._broken("settings", key)) is not None:
            note = f"{wrong.message}: {wrong.hint}"
        return SettingRow(
            key=key,
            value=value,
            default=default,
            source=source,
            description=field.description or "",
            stored=stored.get(key),
            note=note,
        )

    async def plugins(self, params: NoParams) -> PluginsResult:
        """Every plugin: distribution, version, hooks and offers, or the reason why it was not loaded."""
        return PluginsResult(
            plugin_api=PLUGIN_API,
            plugins=tuple(
                PluginRow(
                    name=record.name,
                    distribution=record.distribution,
                    version=record.version,
                    hooks=record.hooks,
                    offers=tuple(f"{offer.kind} {offer.name}" for offer in record.offers),
                    error=record.error,
                    disabled=record.disabled,
                    problems=record.problems,
                )
                for record in self._machine.plugins.records
            ),
            commands={name: ", ".join(owners) for name, owners in self._tools.list_commands().items()},
        )
