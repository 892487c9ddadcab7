"""The systemd managers that keep services: reachable, well, there after a logout, and allowed to be asked."""

from __future__ import annotations

from collections.abc import Iterator

from gpumod.domain.adopted import Manager
from gpumod.domain.errors import GpumodError
from gpumod.operations.checks.case import Case, fine, from_error, problem, unseen, warning
from gpumod.operations.results import Check

WELL = frozenset({"running", "degraded"})
RULE = "docs/systemd.md has the rule to put into /etc/polkit-1/rules.d; or keep services with systemd-user"


def check_systemd(case: Case) -> Iterator[Check]:
    for manager in case.managers:
        yield from _manager(case, manager)
    if not case.managers:
        yield fine("systemd", f"it keeps no service here (supervisor {case.machine.settings.supervisor})")
    if "user" in case.managers:
        yield from _linger(case)
    if "system" in case.managers and case.computer.uid != 0:
        yield from _polkit(case)
    if len(case.watches) > 1:
        first, *rest = case.watches.values()
        message = f"two units run it for this home: {first.there()}, {', '.join(str(one.there()) for one in rest)}"
        yield warning("watch", message, f"one is enough; {first.command('--uninstall')}")


def _manager(case: Case, manager: Manager) -> Iterator[Check]:
    name = f"systemd {manager}"
    try:
        told = case.computer.manager(manager)
    except GpumodError as error:
        yield from_error(name, error)
        return
    user = "--user " if manager == "user" else ""
    said = f"systemd {told.version} is {told.state or 'in a state that it does not tell'}"
    if told.failed_units:
        said += f", {told.failed_units} of its units failed"
    if told.state in WELL:
        yield fine(name, said, f"systemctl {user}--failed" if told.failed_units else "")
    else:
        yield warning(name, said, f"systemctl {user}list-jobs shows what it waits for; starts wait behind it")


def _linger(case: Case) -> Iterator[Check]:
    if case.computer.lingers():
        yield fine("linger", "your systemd manager goes on after you log out")
    else:
        message = "your systemd manager ends, with all its services, when you log out, and does not begin at boot"
        yield warning("linger", message, "loginctl enable-linger")


def _polkit(case: Case) -> Iterator[Check]:
    """Starting a unit of the system's manager takes a rule that this user cannot always read."""
    told = case.computer.polkit()
    for rule in told.rules:
        if not rule.of_units:
            yield problem(
                "polkit",
                f"{rule.path} allows managing units without asking which: that is root's rights for everything",
                "let it look at the unit's name, as in docs/systemd.md",
            )
    good = [rule.path for rule in told.rules if rule.of_units]
    if good:
        yield fine("polkit", f"{', '.join(good)} speaks of single units; that it means you is told by the first start")
    elif told.hidden:
        yield unseen(
            "polkit",
            f"you may not read {', '.join(told.hidden)}: whether a rule lets you start units of the system's manager is"
            " told by the first start",
            RULE,
        )
    elif not told.rules:
        yield warning("polkit", "no rule lets you start and stop units of the system's manager", RULE)
