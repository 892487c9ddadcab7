"""From a launch to a unit's text: the driver's template, or the user's, with escaping filters and our marks."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gpumod.adapters.environment import impersonal
from gpumod.adapters.folders import owner_of
from gpumod.adapters.launches import Resolved
from gpumod.adapters.process.records import Records
from gpumod.adapters.service_user import STATE, check_folders, folders_of, group_of, make_folders, service_user
from gpumod.adapters.systemd.manager import Scope
from gpumod.adapters.systemd.units import SECTION, Unit, Whose, marked, unit_folder, unit_name, whose
from gpumod.adapters.templates import BASE, RISKY_ENV, Templates, systemd_path, systemd_word
from gpumod.domain.base import has_control_characters
from gpumod.domain.errors import Failed, UsageError
from gpumod.domain.run import Handle
from gpumod.domain.secrets import split
from gpumod.domain.service import Service
from gpumod.domain.settings import Settings
from gpumod.ports import Launch

GLOB = frozenset("*?[]\\")
"""EnvironmentFile= takes patterns."""


class Rendering:
    """Renders the units of one home for one manager. `folders` are those of templates that plugins offer."""

    def __init__(self, home: Path, home_id: str, settings: Settings, scope: Scope, folders: Sequence[Path]) -> None:
        self._home, self._home_id, self._settings, self._scope = home, home_id, settings, scope
        self._records = Records(home)
        self._templates = Templates(home, folders, roots_only=roots_only(scope))

    def service_user(self) -> pwd.struct_passwd | None:
        """Who the setting `user` says that units run as; None where they run as without it. Raises UsageError."""
        return None if self._scope == "user" else service_user(self._settings, self._home)

    def is_anothers(self) -> bool:
        """True where units run as another user than whoever asks. Raises UsageError, as :meth:`service_user`."""
        chosen = self.service_user()
        user = chosen.pw_name if chosen else runs_as(self._home, self._scope)
        return user not in (None, _name_of(os.geteuid()))

    def records(self) -> Records:
        """The files of services, those of their own where whoever they run as reaches them."""
        chosen = self.service_user()
        return Records(self._home, folders_of(self._home_id, chosen.pw_name)) if chosen else self._records

    def earlier_records(self) -> Iterator[Records]:
        """Where else services that are up may have files: they were started when the setting `user` was another."""
        if self._scope == "user" or os.geteuid() != 0 or owner_of(self._home) != 0:
            return
        chosen = self.service_user()
        now = folders_of(self._home_id, chosen.pw_name) if chosen else None
        for apart in (None, *sorted(STATE.glob(f"{self._home_id}/*"))):
            if apart != now:
                yield Records(self._home, apart)

    def check(self) -> None:
        """Raise what :meth:`prepare` would raise of folders that are there already."""
        if (chosen := self.service_user()) is not None:
            check_folders(self._home_id, chosen)

    def prepare(self, service: str) -> Records:
        """Make the folders of a service. Raises Failed `bad-folder`."""
        if (chosen := self.service_user()) is not None:
            make_folders(self._home_id, chosen)
        records = self.records()
        records.prepare(service)
        return records

    def environment_file(self, service: str) -> Path:
        """Variables that change from start to start, and secrets: readable by the owner alone."""
        return self._records.run_folder(service) / "environment"

    def exit_file(self, service: str) -> Path:
        """What ExecStopPost= writes down: `NONCE INVOCATION RESULT CODE STATUS`."""
        return self._records.run_folder(service) / "ended"

    def name(self, service: str) -> str:
        return unit_name(service, self._home, self._home_id, self._scope)

    def whose(self) -> Whose:
        """The home that the units are of. Raises as :func:`gpumod.adapters.folders.owner_of`."""
        return whose(self._home, self._home_id)

    def environ(self) -> Mapping[str, str]:
        """What services inherit of: nothing of root's where root has those of another user's home run; else nothing
        that speaks of root's own folders, where they run as somebody else."""
        if not self.is_anothers():
            return os.environ
        return {} if runs_as(self._home, self._scope) else impersonal(os.environ)

    @property
    def folder(self) -> Path:
        """Where units are written."""
        return unit_folder(self._scope)

    def path(self, service: str) -> Path:
        return self.folder / self.name(service)

    def unit(self, handle: Handle, launch: Launch, found: Resolved, template: str | None = None) -> Unit:
        """The unit of a service as it should be now, of what its launch alone means (`found`).

        `template` is used instead of the one that it would be made of.

        Raises UsageError for values that no unit can hold, and what :meth:`Templates.render` raises.
        """
        service = handle.launched
        usual = f"{service.driver}.service.j2"
        name, own = (template, None) if template else (usual, service.unit_template)
        if own is None and name not in self._templates.names():
            name = BASE
        file = self.environment_file(service.id)
        if GLOB & set(str(file)):
            why = "systemd would take one of its characters for a pattern"
            raise UsageError("bad-home", f"units cannot refer to {file}", why=why, hint="choose another --home")
        body = self._templates.render(name, own=own, **self.variables(service, launch, found, own or name))
        anothers = runs_as(self._home, self._scope) is not None
        refers = systemd_word(file) if anothers else f"EnvironmentFile={systemd_path(file)}"
        _check(body, own or name, refers, service)
        return Unit(
            name=self.name(service.id),
            path=self.path(service.id),
            text=marked(body, self.whose(), service.id, own or name),
            template=own or name,
            home=self._home,
        )

    def variables(self, service: Service, launch: Launch, found: Resolved, template: str) -> Mapping[str, object]:
        """What a template can use; docs/templates.md explains each."""
        chosen = self.service_user()
        return {
            "service": service,
            "launch": launch,
            "program": found.program,
            "words": found.argv[1:],
            "env": public_variables(found),
            "cwd": str(found.cwd),
            "environment_file": str(self.environment_file(service.id)),
            "exit_file": str(self.exit_file(service.id)),
            "manager": self._scope,
            "user": chosen.pw_name if chosen else runs_as(self._home, self._scope),
            "group": group_of(chosen) if chosen else None,
            "restart": self._settings.unit_restart,
            "template": template,
        }


def roots_only(scope: Scope) -> bool:
    """True where root makes units for its own manager: what is in a template of another user would have its rights."""
    return scope == "system" and os.geteuid() == 0


def runs_as(home: Path, scope: Scope) -> str | None:
    """Who a unit of the system manager runs as: the home's owner. None: as root, or as whose manager it is."""
    owner = owner_of(home)
    if scope == "user" or owner == 0:
        return None
    return _name_of(owner)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def public_variables(found: Resolved) -> dict[str, str]:
    """The variables of a launch that may stand in its unit: no secrets, nothing that needs a look at who starts it."""

    def is_public(name: str, value: str) -> bool:
        return name not in RISKY_ENV and not has_control_characters(value) and split(value, name)[1] is None

    return {name: value for name, value in found.own.items() if is_public(name, value)}


def _check(body: str, template: str, refers: str, service: Service) -> None:
    """Refuse a unit without what gpumod relies on; `refers` is how it names the file of variables."""
    lines = [line.strip() for line in body.splitlines()]
    lacking = [
        what
        for what, is_there in {
            "a line ExecStart=": any(line.startswith("ExecStart=") for line in lines),
            f"a line with {refers}": any(refers in line for line in lines),
        }.items()
        if not is_there
    ]
    if SECTION in lines:
        lacking.append(f"a text without a section {SECTION}, which gpumod adds itself")
    if lacking:
        raise Failed(
            "bad-template",
            f"the unit of {service.id} cannot be made of the template {template!r}",
            why=f"it lacks {' and '.join(lacking)}",
            hint=f'begin it with {{% extends "{BASE}" %}}, or see `gpumod template show {BASE}`',
        )
