"""Where plugins are found: the entry points, walked by ourselves.

Light on purpose (no pydantic, no click): `gpumod --help` lists the commands of other distributions through it. The
walk reads each distribution's `entry_points.txt` and parses only those that speak of gpumod: several times as fast
as `entry_points()`, and a distribution whose metadata is broken harms only itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import importlib_metadata

if TYPE_CHECKING:
    import click

PLUGINS_GROUP = "gpumod"
COMMANDS_GROUP = "gpumod.commands"


class Entry(NamedTuple):
    """One entry point. `unreadable` says why the distribution's entry points cannot be read (then it has no name)."""

    name: str
    value: str
    distribution: str
    version: str
    unreadable: str = ""

    def load(self) -> Any:
        """Import what it names. Raises whatever the import raises, SystemExit too."""
        return importlib_metadata.EntryPoint(self.name, self.value, PLUGINS_GROUP).load()

    def __str__(self) -> str:
        return f"{self.name!r} of {self.distribution} {self.version}".rstrip()


def find_entries(group: str) -> tuple[Entry, ...]:
    """Every entry point of `group`, by name and then distribution; imports nothing.

    Of several copies of one distribution on the search path only the first counts, as in an import.
    """
    seen: set[str] = set()
    found: list[Entry] = []
    for distribution in importlib_metadata.Distribution.discover():
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except (OSError, UnicodeDecodeError):
            continue
        if PLUGINS_GROUP not in text:
            continue
        name, version = _identity(distribution)
        if name.lower().replace("_", "-") in seen:
            continue
        seen.add(name.lower().replace("_", "-"))
        found += _entries_of(distribution, group, name, version)
    return tuple(sorted(found))


def is_installed(distribution: str) -> bool:
    """Whether a distribution of this name is installed, whatever it offers."""
    return next(iter(importlib_metadata.Distribution.discover(name=distribution)), None) is not None


def _entries_of(distribution: importlib_metadata.Distribution, group: str, name: str, version: str) -> Iterable[Entry]:
    try:
        return [Entry(e.name, e.value, name, version) for e in distribution.entry_points if e.group == group]
    except Exception as exc:  # noqa: BLE001  # whatever a parser says of a stranger's broken file
        return [Entry("", "", name, version, f"{type(exc).__name__}: {exc}")] if group == PLUGINS_GROUP else []


def _identity(distribution: importlib_metadata.Distribution) -> tuple[str, str]:
    """Name and version from the head of METADATA, read as lines: the e-mail parser would cost 12 ms."""
    try:
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    except (OSError, UnicodeDecodeError):
        text = ""
    head = text.partition("\n\n")[0].splitlines()
    fields = dict(line.split(": ", 1) for line in reversed(head) if ": " in line)
    folder = getattr(distribution, "_path", None)  # where METADATA is missing its name says what it can
    return fields.get("Name", getattr(folder, "name", "an unknown distribution")).strip(), fields.get("Version", "")


def list_commands() -> dict[str, tuple[str, ...]]:
    """Names of the commands that other distributions offer, each with those distributions; loads nothing."""
    commands: dict[str, tuple[str, ...]] = {}
    for entry in find_entries(COMMANDS_GROUP):
        commands[entry.name] = (*commands.get(entry.name, ()), entry.distribution)
    return commands


def load_command(name: str) -> click.Command:
    """Load one command of another distribution.

    Raises UnknownName, UsageError (`duplicate-offer`) when two distributions offer it, and Failed (`plugin-broken`)
    when it cannot be imported or is no click command.
    """
    # Imported here: listing must stay light.
    import click  # noqa: PLC0415 - only a command of a plugin needs it

    from gpumod.domain.errors import Failed, UnknownName, UsageError  # noqa: PLC0415 - only a command of a plugin needs it
    from gpumod.plugins.isolation import quietly, reason  # noqa: PLC0415 - only a command of a plugin needs it

    entries = [entry for entry in find_entries(COMMANDS_GROUP) if entry.name == name]
    if not entries:
        raise UnknownName("unknown-command", f"no installed distribution offers the command {name!r}")
    if len(entries) > 1:
        owners = " and ".join(entry.distribution for entry in entries)
        raise UsageError(
            "duplicate-offer", f"the command {name!r} is offered by {owners}", hint="uninstall all of them but one"
        )
    entry = entries[0]
    hint = f"reinstall or uninstall {entry.distribution}; every other command works without it"
    try:
        with quietly():
            command = entry.load()
    except (Exception, SystemExit) as exc:
        raise Failed("plugin-broken", f"the command {entry} cannot be loaded", why=reason(exc), hint=hint) from exc
    if not isinstance(command, click.Command):
        why = f"{entry.value} is a {type(command).__name__}, not a click command"
        raise Failed("plugin-broken", f"the command {entry} cannot be loaded", why=why, hint=hint)
    return command
