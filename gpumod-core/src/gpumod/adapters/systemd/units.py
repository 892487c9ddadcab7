"""Unit files of ours: how they are called, where they lie, and the marks by which they are known as ours."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import pwd
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gpumod.adapters.files import open_own, write_atomic
from gpumod.adapters.folders import owner_of
from gpumod.adapters.systemd.manager import Properties, Scope
from gpumod.domain.base import is_id
from gpumod.domain.errors import Failed, GpumodError, MachineLacks

SECTION = "[X-Gpumod]"
"""systemd passes over sections that begin with X-."""
MODE = 0o644
"""What stands in a unit can be asked of the manager by everybody; secrets are in the file of variables."""
_MOST_BYTES = 1024 * 1024
"""Longer is no unit of ours."""
_MARK = re.compile(r"^([A-Z][A-Za-z]*)=(.*)$", re.MULTILINE)
_USER = re.compile(r"^User=(.*)$", re.MULTILINE)


class Whose(NamedTuple):
    """The home that a unit is of. Its owner writes the file with its id, and could write another home's there."""

    home_id: str
    owner: int
    """The user id."""


@dataclass(frozen=True)
class Unit:
    """A unit as it should be; `template` is what it was made of, `home` that of which it keeps a service."""

    name: str
    path: Path
    text: str
    template: str
    home: Path | None = None


def unit_name(service: str, home: Path, home_id: str, scope: Scope) -> str:
    """`gpumod-ID.service` for the home where a user's data usually is (of the system manager: root's), else with the
    home's id, so that two homes never mean the same unit."""
    owner = owner_of(home)
    usual = False
    try:
        folder = Path(pwd.getpwuid(owner).pw_dir)
        usual = home in (folder / ".local/share/gpumod", folder.resolve() / ".local/share/gpumod")
    except KeyError:  # a user without an entry has no usual place
        pass
    short = usual and (scope == "user" or owner == 0)
    return f"gpumod-{service}.service" if short else f"gpumod-{service}.{home_id}.service"


def unit_folder(scope: Scope, uid: int | None = None) -> Path:
    """Where units of ours are written (`uid`: those of another user's manager). They stay over a reboot, but none is
    ever enabled.

    Raises MachineLacks `no-user-manager` for a user who is not in the machine's list of users.
    """
    if scope == "system":
        return Path("/etc/systemd/system")
    uid = os.geteuid() if uid is None else uid
    try:
        return Path(pwd.getpwuid(uid).pw_dir) / ".config/systemd/user"
    except KeyError:
        raise MachineLacks(
            "no-user-manager",
            "this user has no systemd manager",
            why=f"nobody has the user id {uid} on this machine",
            hint="gpumod settings set supervisor process",
        ) from None


def whose(home: Path, home_id: str) -> Whose:
    """Raises as :func:`gpumod.adapters.folders.owner_of`."""
    return Whose(home_id, owner_of(home))


def marked(body: str, home: Whose, service: str, template: str) -> str:
    """`body` with our marks below. `Text` is a digest of the body: an edit by hand can be told from a new template."""
    marks = {"Home": home.home_id, "Service": service, "Owner": home.owner, "Template": template, "Text": _digest(body)}
    return f"{body.rstrip()}\n\n{SECTION}\n" + "".join(f"{key}={value}\n" for key, value in marks.items())


def marks_of(text: str) -> Mapping[str, str]:
    """The marks in a unit; none where there are none."""
    _, found, tail = text.rpartition(f"\n{SECTION}\n")
    return dict(_MARK.findall(tail)) if found else {}


def was_edited(text: str) -> bool:
    """True for a unit of ours whose text is not the one that gpumod wrote."""
    body, _, _ = text.rpartition(f"\n{SECTION}\n")
    return marks_of(text).get("Text") != _digest(body)


def _digest(body: str) -> str:
    return hashlib.sha256(body.rstrip().encode()).hexdigest()[:16]


def there(path: Path, home: Whose, service: str) -> str | None:
    """The text of our unit at `path`, None where there is none.

    Raises Failed `foreign-unit` for a file that is not of this home's service: it is never written over.
    """
    try:
        text = _read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        if path.is_symlink():  # a mask by hand, say, or a leftover
            raise foreign(path, "it is a link") from error
        raise MachineLacks(
            "unit-unreadable", f"the unit {path} cannot be read", why=error.strerror or str(error)
        ) from error
    marks = marks_of(text)
    if (marks.get("Home"), marks.get("Service")) != (home.home_id, service):
        raise foreign(path, "it does not carry the mark of this home" if not marks else "it is of another home")
    if not _is_owners(path, text, home.owner):
        raise foreign(path, "it is of another user's home, which has the same id")
    return text


def _read(path: Path) -> str:
    """The text of a unit. Raises OSError for a link too, and for what is no plain file: it may lie in the folder of a
    user who would have root wait, or read what is not that user's. Failed `bad-folder` as :func:`opened`."""
    with open_own(path, plain=True) as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data.decode("utf-8", "replace")


def _is_owners(path: Path, text: str, owner: int) -> bool:
    """Whether a unit with our marks is of a home of `owner`."""
    if (told := marks_of(text).get("Owner")) is not None:
        return told == str(owner)
    # Units once did not tell that: those of the system's manager ran as the home's owner. Root's id nobody can use.
    if owner == 0:
        return True
    if users := _USER.findall(text):
        return users[-1] in (str(owner), _name_of(owner))
    return path.stat().st_uid == owner


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def foreign(path: Path | str, why: str) -> Failed:
    return Failed(
        "foreign-unit",
        f"the unit {path} is not ours, so it is left alone",
        why=why,
        hint="remove or rename it, or give the service another id",
    )


def not_read(unit: Unit, shown: Properties) -> Failed:
    return Failed(
        "bad-unit",
        f"systemd does not take the unit {unit.path}",
        why=f"its LoadState is {shown.get('LoadState', 'unknown')}, read from {shown.get('FragmentPath') or 'nowhere'}",
        hint=f"systemd-analyze verify {unit.path} tells more; it was made of {unit.template}",
    )


def is_writable(unit: Unit) -> bool:
    """Whether this user may put a unit where it belongs."""
    folder = unit.path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK)


def write(unit: Unit) -> Callable[[], None]:
    """Put a unit where it belongs, whole or not at all; what is returned puts back what was there.

    Raises what :func:`cannot_write` makes.
    """
    try:
        unit.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        there = (unit.path.read_text("utf-8"), unit.path.stat().st_mtime_ns) if unit.path.exists() else None
        write_atomic(unit.path, unit.text, MODE)
    except OSError as error:
        raise cannot_write(unit, error) from error

    def put_back() -> None:
        if there is None:
            unit.path.unlink(missing_ok=True)
            return
        write_atomic(unit.path, there[0], MODE)
        os.utime(unit.path, ns=(there[1], there[1]))  # else systemd would take it for changed

    return put_back


def cannot_write(unit: Unit, error: OSError | None = None, others: Sequence[Unit] = ()) -> GpumodError:
    """What keeps `unit` from being written; where that takes root, `others` that lack it too are named with it."""
    if os.geteuid() != 0 and (error is None or isinstance(error, PermissionError)):
        lacking = sorted((unit, *others), key=lambda one: one.path)  # the same words, whichever is asked for
        how = {one.path: "is not as it should be" if os.path.lexists(one.path) else "is not there" for one in lacking}
        many = len(lacking) > 1
        told = ", ".join(f"{path} {state}" for path, state in how.items())
        home = f" --home {shlex.quote(str(unit.home))}" if unit.home else ""
        commands = [f"gpumod{home} service unit {marks_of(one.text).get('Service', 'ID')} --write" for one in lacking]
        return MachineLacks(
            "unit-needs-root",
            f"{'units are' if many else 'a unit is'} to be written, and only root may do that: {told}",
            why=error.strerror or "" if error else f"you cannot write into {unit.path.parent}",
            hint=f"as root: {' && '.join(commands)}; or set supervisor systemd-user",
        )
    why = (error.strerror or str(error)) if error else ""
    return Failed(
        "cannot-write", f"the unit {unit.path} cannot be written", why=why, hint="check the disk and the folder"
    )


def of_home(folder: Path, home: Whose) -> Iterator[tuple[str, Path]]:
    """Units in `folder` that carry the mark of this home, with its services. Links are nobody's."""
    for path in sorted(folder.glob("gpumod-*.service")):
        with contextlib.suppress(OSError, Failed):  # it went meanwhile, or is not to be read
            text = _read(path)
            marks = marks_of(text)
            is_ours = marks.get("Home") == home.home_id and _is_owners(path, text, home.owner)
            if is_ours and is_id(marks.get("Service", "")):
                yield marks["Service"], path


def remove(path: Path, home: Whose, service: str) -> bool:
    """Remove a unit of ours; True when there was one. What is not ours is left alone, without a word.

    Raises MachineLacks `unit-needs-root`, and Failed `cannot-write`.
    """
    try:
        if there(path, home, service) is None:
            return False
    except GpumodError:
        return False
    try:
        path.unlink()
    except OSError as error:
        why = error.strerror or str(error)
        if os.geteuid() != 0 and isinstance(error, PermissionError):
            message = f"the unit {path} is left, and only root may remove it"
            raise MachineLacks("unit-needs-root", message, why=why, hint=f"as root: rm {path}") from error
        raise Failed("cannot-write", f"the unit {path} cannot be removed", why=why) from error
    return True
