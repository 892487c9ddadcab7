"""Talking to a systemd manager, the system's or the user's, by `systemctl`: argument lists, never a shell."""

from __future__ import annotations

import asyncio
import os
import pwd
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gpumod.domain.errors import Failed, MachineLacks

Scope = Literal["user", "system"]
BOOTED = Path("/run/systemd/system")
"""This folder is there where systemd is process 1."""
CALL_TIMEOUT_S = 60.0

FORBIDDEN = ("Access denied", "authentication required", "Permission denied", "not permitted", "Unit polkit.service")
"""What is in an answer of systemd's to somebody who may not."""

Properties = Mapping[str, str]


class Answer(NamedTuple):
    code: int
    out: str
    err: str


class Manager:
    """One manager: `scope` is "user" (of whoever runs this) or "system"."""

    def __init__(self, scope: Scope, environ: Mapping[str, str] | None = None, booted: Path = BOOTED) -> None:
        self.scope = scope
        self._environ = os.environ if environ is None else environ
        self._booted = booted

    def reach(self) -> None:
        """Raise MachineLacks (`no-systemd`, `no-user-manager`) where there is no such manager."""
        self._environment()

    async def show(self, units: Sequence[str], properties: Sequence[str]) -> Mapping[str, Properties]:
        """Properties by unit; a unit that is not there has LoadState=not-found. One call for all units."""
        return await asyncio.to_thread(self.show_now, units, properties)

    def show_now(
        self, units: Sequence[str], properties: Sequence[str], timeout_s: float = CALL_TIMEOUT_S
    ) -> Mapping[str, Properties]:
        """What :meth:`show` tells, for threads. Blocks."""
        if not units:
            return {}
        answer = self._call_now("show", "--property", ",".join(("Id", *properties)), "--", *units, timeout_s=timeout_s)
        if answer.code:
            raise refused(self.scope, "cannot be asked", answer)
        shown = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in answer.out.split("\n\n")]
        # by the name that was asked for: an alias is told as what it stands for
        return {unit: block for unit, block in zip(units, shown, strict=False) if "Id" in block}

    async def call(self, verb: str, *arguments: str, timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """`systemctl VERB ...`. Raises MachineLacks where there is no such manager, Failed `systemd-hangs`."""
        return await asyncio.to_thread(self._call_now, verb, *arguments, timeout_s=timeout_s)

    def _call_now(self, verb: str, *arguments: str, timeout_s: float) -> Answer:
        words = ["systemctl", *(["--user"] if self.scope == "user" else []), "--no-ask-password", "--no-pager"]
        return self.run([*words, verb, *arguments], timeout_s)

    async def start(self, *arguments: str, timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """`systemctl start ...`, which raises as :meth:`call`. One that is cancelled ends when systemctl has: a thread
        cannot be cancelled, and whoever goes back must find what systemd is about to start."""
        starting = asyncio.ensure_future(self.call("start", *arguments, timeout_s=timeout_s))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait([starting])
            raise

    def run(self, words: Sequence[str], timeout_s: float = CALL_TIMEOUT_S) -> Answer:
        """A program of systemd's, in an environment in which it finds its manager. Blocks."""
        try:
            done = subprocess.run(
                words,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=timeout_s,
                start_new_session=True,  # a Ctrl-C is meant for gpumod, not for a stop that systemd is at
            )
        except FileNotFoundError as error:
            raise no_systemd(f"the program {words[0]} is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise Failed(
                "systemd-hangs",
                f"`{' '.join(words[:6])}` did not end within {timeout_s:g} s",
                why="the systemd manager does not answer, or a job in it does not end",
                hint="see `systemctl list-jobs`",
            ) from error
        return Answer(done.returncode, _text(done.stdout), _text(done.stderr))

    def _environment(self) -> dict[str, str]:
        env = {
            name: self._environ[name] for name in ("PATH", "HOME", "DBUS_SESSION_BUS_ADDRESS") if name in self._environ
        }
        env |= {"LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", "SYSTEMD_URLIFY": "0"}
        env.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
        if self.scope == "system":
            if not self._booted.is_dir():
                raise no_systemd(f"there is no {self._booted}: this machine was not booted with systemd")
            env.pop("DBUS_SESSION_BUS_ADDRESS", None)
            return env
        folder = runtime_dir(self._environ)
        bus = folder / "bus"
        if bus.exists():  # never that of another session, which cron or sudo may have left in the environment
            env["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={bus}"
        return {**env, "XDG_RUNTIME_DIR": str(folder)}


def runtime_dir(environ: Mapping[str, str]) -> Path:
    """The folder of this user's manager: XDG_RUNTIME_DIR, else (cron, ssh, su) /run/user/UID.

    Raises MachineLacks `no-user-manager`.
    """
    usual = Path(f"/run/user/{os.geteuid()}")
    given = environ.get("XDG_RUNTIME_DIR")
    for folder in (Path(given), usual) if given else (usual,):
        there = os.path.isdir(folder / "systemd")  # noqa: PTH112 - raises nothing where it is another's
        if there and folder.stat().st_uid == os.geteuid():
            return folder
    raise MachineLacks(
        "no-user-manager",
        "your systemd user manager does not run",
        why=f"there is no {usual}/systemd" + (f", and none in XDG_RUNTIME_DIR ({given})" if given else ""),
        hint="log in, or keep it running without a login: loginctl enable-linger; or set another `supervisor`",
    )


def lingers(root: Path = Path("/")) -> bool:
    """True when this user's manager goes on after the last logout. `root` is where the computer's files begin."""
    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return (root / "var/lib/systemd/linger" / name).exists()


def no_systemd(why: str) -> MachineLacks:
    hint = "gpumod settings set supervisor process; a service may say otherwise in run_with"
    return MachineLacks("no-systemd", "there is no systemd to keep services", why=why, hint=hint)


def refused(scope: Scope, what: str, answer: Answer, unit: str = "", hint: str = "") -> Failed | MachineLacks:
    """The error of a call that failed: MachineLacks `not-allowed` (`hint`: what then helps) where rights are missing,
    else Failed."""
    why = answer.err.strip() or answer.out.strip() or f"systemctl ended with status {answer.code}"
    name = unit or f"the systemd {scope} manager"
    if any(words in why for words in FORBIDDEN):
        return MachineLacks(
            "not-allowed",
            f"{name} {what}: you may not",
            why=why,
            hint=hint
            or "let a polkit rule allow it for units of this home (docs/systemd.md has one), run gpumod as root, or"
            " use your own manager: gpumod settings set supervisor systemd-user",
        )
    if "Failed to connect" in why or "No medium found" in why:
        return MachineLacks("no-systemd", f"{name} cannot be reached", why=why, hint="is it running? systemctl status")
    return Failed(
        "systemd-refused", f"{name} {what}", why=why, hint=f"see `systemctl status {unit}`".replace(" `", " `")
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
