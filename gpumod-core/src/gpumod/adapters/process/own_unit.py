"""The systemd unit that gpumod itself runs in: where that ends what is left in it, no service is started there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from gpumod.domain.adopted import MANAGERS
from gpumod.domain.errors import GpumodError, MachineLacks
from gpumod.domain.settings import Settings

OWN_GROUPS = Path("/proc/self/cgroup")
ASKED = ("LoadState", "KillMode", "ExitType")
KILLS = ("control-group", "mixed")
ASK_TIMEOUT_S = 10.0


class OwnUnit(NamedTuple):
    scope: Literal["user", "system"]
    name: str


def own_unit(groups: str, uid: int) -> OwnUnit | None:
    """The innermost service unit that the text of a /proc/PID/cgroup names, of the system's manager or of user `uid`'s.

    None in a scope (a login, a terminal's window), which lasts for as long as anything in it, and in no unit at all.
    """
    for line in groups.splitlines():  # where both hierarchies are there, systemd may use either
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and controllers != "name=systemd":
            continue
        parts = path.split("/")
        at = max((i for i, part in enumerate(parts) if part.endswith((".service", ".scope"))), default=0)
        if not parts[at].endswith(".service") or parts[at].startswith(MANAGERS):
            continue
        managers = [part for part in parts[:at] if part.startswith(MANAGERS)]
        if not managers:
            return OwnUnit("system", parts[at])
        return OwnUnit("user", parts[at]) if managers == [f"{MANAGERS}{uid}.service"] else None
    return None


def kill_mode(shown: Mapping[str, str]) -> str | None:
    """The KillMode= of a unit that ends, when it ends itself, what it has left; None of one that leaves it be.

    With ExitType=cgroup it does not end before everything in it has, as a scope. RemainAfterExit=yes is no safe haven:
    a command that fails ends everything at once.
    """
    mode = shown.get("KillMode", "")
    return mode if shown.get("LoadState") == "loaded" and mode in KILLS and shown.get("ExitType") != "cgroup" else None


def refuse_ending_unit(settings: Settings, service: str) -> None:
    """Raise MachineLacks `ends-with-unit` where what is started here would be ended with the unit that gpumod runs in,
    a timer's or cron's, say. Blocks where there is such a unit: its manager is asked, and is no hindrance if it does
    not answer.
    """
    if settings.end_with_unit == "allow":
        return
    try:
        unit = own_unit(OWN_GROUPS.read_text("utf-8", "replace"), os.geteuid())
    except OSError:
        return
    if unit is None:
        return
    from gpumod.adapters.systemd.manager import Manager  # noqa: PLC0415 - seldom needed

    shown: Mapping[str, str] = {}
    with contextlib.suppress(GpumodError):
        shown = Manager(unit.scope).show_now([unit.name], ASKED, ASK_TIMEOUT_S).get(unit.name, {})
    if (mode := kill_mode(shown)) is None:
        return
    user = "--user " if unit.scope == "user" else ""
    keeper = "systemd-system" if unit.scope == "system" and os.geteuid() == 0 else "systemd-user"
    raise MachineLacks(
        "ends-with-unit",
        f"service {service} is not started: it would be ended with {unit.name}, in which this gpumod runs",
        why=f"as soon as that unit is over, systemd ends every process in it (KillMode={mode})",
        hint=f"put KillMode=process below [Service] there: systemctl {user}edit {unit.name}; or let systemd keep"
        f" services: gpumod settings set supervisor {keeper}; or, where they are to end with it: gpumod settings set"
        " end_with_unit allow",
    )
