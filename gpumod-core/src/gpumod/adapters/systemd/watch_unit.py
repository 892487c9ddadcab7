"""The one unit of gpumod's own that is enabled: it runs `gpumod watch`."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from gpumod.adapters.environment import lasting
from gpumod.adapters.systemd import units
from gpumod.adapters.systemd.manager import BOOTED, CALL_TIMEOUT_S, Manager, Scope, lingers, refused
from gpumod.adapters.systemd.reloading import Reloading
from gpumod.adapters.systemd.rendering import roots_only, runs_as
from gpumod.adapters.systemd.units import Unit, Whose, marked, unit_folder, unit_name, whose
from gpumod.adapters.templates import Templates
from gpumod.domain.errors import GpumodError, MachineLacks
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
        self._reach()
        unit = self._unit()
        before = units.there(self.path, self._whose(), MARK)
        changed = before != unit.text
        if changed:
            try:
                undo = units.write(unit)
            except MachineLacks as error:
                raise self._no_rights("write", "--install", error.info.why) from error
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
            await self._do("--install", "enable", "--no-reload")
        if changed or not active:
            await self._do("--install", "restart", timeout_s=PATIENCE_S)
        return changed or not enabled or not active

    async def uninstall(self) -> bool:
        """Disable and stop the unit and remove it; False where there was none. What it has started goes on.

        Raises what :meth:`install` does.
        """
        if units.there(self.path, self._whose(), MARK) is None:
            if self.there() is not None:
                raise self._no_rights("remove", "--uninstall", "your systemd manager is not its owner's")
            return False
        if self._scope == "system" and os.geteuid() != 0:  # before its manager is asked to end it
            raise self._no_rights("remove", "--uninstall", "it is of the system's manager")
        self._reach()
        # disabled first: whatever becomes of the stop, no boot brings it back
        await self._do("--uninstall", "disable", "--no-reload")
        await self._do("--uninstall", "stop", timeout_s=PATIENCE_S)
        units.remove(self.path, self._whose(), MARK)
        return True

    def there(self) -> Path | None:
        """Where the unit of this home lies, be it among those of the home's owner; None where it is not written."""
        for folder in dict.fromkeys((self.path.parent, *self._owners_folder())):
            with contextlib.suppress(GpumodError):  # another home's, or not to be read
                if units.there(folder / self.name, self._whose(), MARK) is not None:
                    return folder / self.name
        return None

    def command(self, option: str) -> str:
        """What a person types for `option` of this unit (`--install`, `--uninstall`), and as whom."""
        words = f"gpumod --home {shlex.quote(str(self._home))} watch {option} --manager {self._scope}"
        place = self.there()
        whose = 0 if self._scope == "system" else place.stat().st_uid if place else os.geteuid()
        return words if whose == os.geteuid() else f"as {_user(whose)}: {words}"

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

    async def _do(self, option: str, verb: str, *options: str, timeout_s: float = CALL_TIMEOUT_S) -> None:
        answer = await self._manager.call(verb, *options, "--", self.name, timeout_s=timeout_s)
        if answer.code:
            raise refused(self._scope, f"refuses to {verb}", answer, self.name, self.command(option))

    def _reach(self) -> None:
        """Raise MachineLacks (`no-systemd`, `no-user-manager`) where there is no such manager: what then keeps services
        is another question than what runs `watch`."""
        try:
            self._manager.reach()
        except MachineLacks as error:
            hint = "run `gpumod watch` by what starts programs here, or `gpumod watch --once` from cron"
            if BOOTED.is_dir():
                hint = "log in, or keep it running without a login: loginctl enable-linger"
            message = "there is no systemd to run `gpumod watch`" if error.code == "no-systemd" else error.info.message
            raise MachineLacks(error.code, message, why=error.info.why, hint=hint) from error

    def _no_rights(self, verb: str, option: str, why: str) -> MachineLacks:
        return MachineLacks(
            "unit-needs-root",
            f"you may not {verb} the unit {self.there() or self.path}",
            why=why,
            hint=self.command(option),
        )

    def _owners_folder(self) -> tuple[Path, ...]:
        """Where the owner of this home has units of a manager of their own, which may be another's than this user's."""
        if self._scope == "system":
            return ()
        try:
            return (unit_folder("user", self._home.stat().st_uid),)
        except MachineLacks:
            return ()

    def _variables(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """What services inherit of this shell and the unit can hold, and what it cannot; nothing of another user's."""
        return ({}, ()) if runs_as(self._home, self._scope) else lasting(os.environ)

    def _whose(self) -> Whose:
        return whose(self._home, self._home_id)

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
        return Unit(self.name, self.path, marked(body, self._whose(), MARK, TEMPLATE), TEMPLATE)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def default_scope(settings: Settings) -> Scope:
    """The system's manager where services are kept there, or where root is at work; else the user's."""
    if settings.supervisor == "systemd-system":
        return "system"
    return "user" if settings.supervisor == "systemd-user" or os.geteuid() != 0 else "system"
