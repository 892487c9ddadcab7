"""The user that the setting `user` names: as whom units of root's home run, and where that user reaches their files."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

from gpumod.adapters.folders import bad_folder, owner_of
from gpumod.adapters.trusted import why_not_roots
from gpumod.domain.errors import UsageError
from gpumod.domain.settings import Settings

STATE = Path("/var/lib/gpumod")
"""Root's home is closed to others: what a service reads and writes under another user lies here."""


def named_user(name: str, home: Path) -> pwd.struct_passwd | None:
    """The user `name` where services of `home` would run as somebody else without the setting; None for its owner.

    Raises UsageError `bad-setting` for a user that this machine does not have, and where only the home's owner can be
    meant: nobody but root may start programs as others.
    """
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise _bad(name, "there is no such user on this machine", f"useradd --system {name} makes one") from None
    owner = owner_of(home)
    if user.pw_uid == owner:
        return None
    if owner != 0:
        hint = "leave it unset: gpumod settings set user --default"
        raise _bad(name, f"the home {home} is not root's, so its services run as its owner", hint)
    return user


def service_user(settings: Settings, home: Path) -> pwd.struct_passwd | None:
    """Who units of `home` run as by the setting `user`; None where that says nothing else than without it. Raises as
    :func:`named_user`."""
    return named_user(settings.user, home) if settings.user else None


def group_of(user: pwd.struct_passwd) -> str:
    """The name of a user's primary group, its number where it has none."""
    try:
        return grp.getgrgid(user.pw_gid).gr_name
    except KeyError:
        return str(user.pw_gid)


def variables_of(user: pwd.struct_passwd) -> dict[str, str]:
    """What systemd tells a service of the user whom it runs as."""
    return {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "SHELL": user.pw_shell}


def refuse_other_user(settings: Settings, home: Path, service: str) -> None:
    """Raise UsageError `cannot-change-user` where `service` would run as whoever asks, and the setting `user` names
    somebody else; `bad-setting` as :func:`named_user` does."""
    user = service_user(settings, home)
    if user is None:
        return
    raise UsageError(
        "cannot-change-user",
        f"service {service} is not started: it would run as root, and the setting user names {user.pw_name}",
        why="only units of the system's manager run as another user than the home's owner",
        hint=f"gpumod settings set supervisor systemd-system; for this service alone: gpumod service edit {service}"
        " --run-with systemd-system; or gpumod settings set user --default",
    )


def folders_of(home_id: str, user: str, state: Path = STATE) -> Path:
    """Where the folders of services lie that run as `user`."""
    return state / home_id / user


def check_folders(home_id: str, user: pwd.struct_passwd, state: Path = STATE) -> None:
    """Raise Failed `bad-folder` where the folders that are to hold :func:`folders_of` are not root's alone: root would
    make, and give away, what others lead it to."""
    for folder in (state.parent, state, state / home_id):
        try:
            why = why_not_roots(folder) or ("" if folder.is_dir() else "it is no folder")
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not folder.is_symlink():
                return  # root makes it, and what is below
            hint = f"`namei -l {folder}` shows where: mount the disk that is meant, or remove the link"
            raise bad_folder(folder, "is a link that leads nowhere", error.strerror or str(error), hint) from error
        if why:
            name, way = user.pw_name, f"`namei -l {folder}` shows whose each folder on the way is"
            hint = f"{way}; rename it, or: chown root: {folder} && chmod 755 {folder}"
            if folder == Path(user.pw_dir):
                hint = f"give {name} another home: usermod --move-home --home /home/{name} {name}"
            raise bad_folder(folder, "is not root's alone", why, hint)


def make_folders(home_id: str, user: pwd.struct_passwd, state: Path = STATE) -> None:
    """Make :func:`folders_of`, which that user alone may enter, in folders of root's.

    Raises Failed `bad-folder`.
    """
    path = folders_of(home_id, user.pw_name, state)
    try:
        check_folders(home_id, user, state)
        for folder in (state, path.parent):
            if not folder.is_dir():
                folder.mkdir(mode=0o755)
                folder.chmod(0o755)  # whatever the umask
        path.mkdir(mode=0o700, exist_ok=True)
        if path.lstat().st_uid == 0:  # new, or of a gpumod that was killed at this point; the folder above is root's
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        owner = path.lstat().st_uid
    except OSError as error:
        raise bad_folder(path, "cannot be made", error.strerror or str(error)) from error
    if owner != user.pw_uid:
        why = f"its owner has the user id {owner}, and {user.pw_name} has {user.pw_uid}"
        raise bad_folder(path, f"is not {user.pw_name}'s", why, f"rename it, or: chown -R {user.pw_name}: {path}")


def _bad(name: str, why: str, hint: str) -> UsageError:
    return UsageError("bad-setting", f"the setting user cannot be {name!r}", why=why, hint=hint, key="user")
