"""The one unit of gpumod's own that is enabled: it runs `gpumod watch`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gpumod.adapters.environment import lasting
from gpumod.adapters.systemd import units
from gpumod.adapters.systemd.manager import CALL_TIMEOUT_S, Manager, Scope, lingers, refused
from gpumod.adapters.systemd.reloading import Reloading
from gpumod.adapters.systemd.rendering import roots_only, runs_as
from gpumod.adapters.systemd.units import Unit, marked, unit_folder, unit_name
from gpumod.adapters.templates import Templates
from gpumod.domain.settings import Settings

TEMPLATE = "watch.service.j2"
MARK = "@watch"
"""Stands where units of services have the service's id; no service can be called so."""
STOP_TIMEOUT_S = 300
"""A switch that is under way is turned back first."""
PATIENCE_S = STOP_TIMEOUT_S + 120.0
"""So long a stop and a start may take: systemd gives up before gpumod does."""


class WatchUnit:
    """Implements :class:`gpumod.operations.ports.InstallsWatch` with a unit of one manager."""

    def __init__(self, home: Path, home_id: str, settings: Settings, folders: Sequence[Path], *, scope: Scope) -> None:
        self._home, self._home_id, self._scope = home, home_id, scope
        self._manager = Manager(scope)
        self._reloading = Reloading(self._manager, settings)
        self._templates = Templates(home, folders, roots_only=roots_only(scope))
        # `gpumod-ID.service` is a service's, whatever its id: without one it is nobody else's
        self.name = unit_name("", home, home_id, scope).replace("-.", ".")
        self.path = unit_folder(scope) / self.name

    async def install(self) -> bool:
        """Write the unit, enable and start it; True where anything changed.

        Raises MachineLacks (`no-systemd`, `no-user-manager`, `unit-needs-root`, `not-allowed`), Failed.
        """
        self._manager.reach()
        unit = self._unit()
        before = units.there(self.path, self._home_id, MARK)
        changed = before != unit.text
        if changed:
            undo = units.write(unit)
            if before is not None:
                try:
                    await self._reloading.reload()
                except BaseException:
                    undo()
                    raise
        enabled = (await self._manager.call("is-enabled", "--", self.name)).code == 0
        active = (await self._manager.call("is-active", "--", self.name)).code == 0
        # enabling would make the manager reread everything, which containers with GPUs may not survive
        if not enabled:
            await self._do("enable", "--no-reload")
        if changed or not active:
            await self._do("restart", timeout_s=PATIENCE_S)
        return changed or not enabled or not active

    async def uninstall(self) -> bool:
        """Disable and stop the unit and remove it; False where there was none. What it has started goes on."""
        self._manager.reach()
        if units.there(self.path, self._home_id, MARK) is None:
            return False
        await self._do("disable", "--no-reload")  # first: whatever becomes of the stop, no boot brings it back
        await self._do("stop", timeout_s=PATIENCE_S)
        units.remove(self.path, self._home_id, MARK)
        return True

    def advice(self) -> tuple[str, ...]:
        """What would keep it from doing its work as it is done by hand, each with what to do."""
        found: list[str] = []
        if self._scope == "user" and not lingers():
            found.append("it runs only while you are logged in; from boot on: loginctl enable-linger")
        _, left = self._variables()
        edit = f"systemctl {'--user ' if self._scope == 'user' else ''}edit {self.name}"
        if (user := runs_as(self._home, self._scope)) is not None:
            found.append(
                f"it runs as {user}, whose PATH, HF_HOME and the like are not known here: gpumod settings set bin_path"
                f" FOLDER (hf_home likewise), or {edit}"
            )
        elif left:
            found.append(
                f"services that it starts do not get {', '.join(left)} of this shell (of a session, or perhaps a"
                f" secret): {edit} gives it to them"
            )
        return tuple(found)

    async def _do(self, verb: str, *options: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        answer = await self._manager.call(verb, *options, "--", self.name, timeout_s=timeout_s)
        if answer.code:
            raise refused(self._scope, f"refuses to {verb}", answer, self.name)

    def _variables(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """What services inherit of this shell and the unit can hold, and what it cannot; nothing of another user's."""
        return ({}, ()) if runs_as(self._home, self._scope) else lasting(os.environ)

    def _unit(self) -> Unit:
        body = self._templates.render(
            TEMPLATE,
            manager=self._scope,
            user=runs_as(self._home, self._scope),
            program=sys.executable,
            # -P: the folder that it begins in is somebody's home, where any click.py would be imported
            words=["-P", "-m", "gpumod", "--home", str(self._home), "watch"],
            env=self._variables()[0],
            stop_timeout_s=STOP_TIMEOUT_S,
        )
        return Unit(self.name, self.path, marked(body, self._home_id, MARK, TEMPLATE), TEMPLATE)


def default_scope(settings: Settings) -> Scope:
    """The system's manager where services are kept there, or where root is at work; else the user's."""
    if settings.supervisor == "systemd-system":
        return "system"
    return "user" if settings.supervisor == "systemd-user" or os.geteuid() != 0 else "system"
