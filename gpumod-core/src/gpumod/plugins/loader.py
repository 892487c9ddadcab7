"""The loader: walks the entry points, and lets no broken plugin stop the others.

Each plugin is imported, checked and asked for its offers by itself. What fails is kept with its distribution,
version and reason, and offers nothing at all: half a plugin would be worse than none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pluggy

from gpumod.domain.errors import ErrorInfo
from gpumod.plugins import hookspecs, offers
from gpumod.plugins.checks import KINDS, Refused, check_offer, check_plugin
from gpumod.plugins.entries import PLUGINS_GROUP, Entry, find_entries
from gpumod.plugins.isolation import quietly, reason
from gpumod.plugins.registry import (
    Offered,
    OfferRecord,
    PluginRecord,
    Plugins,
    Registry,
    SleepStrategies,
    install_hints,
)

CORE = ("core", "gpumod.plugins.core", "gpumod-core")
ALLOW, DENY = "GPUMOD_PLUGINS", "GPUMOD_DISABLE_PLUGINS"


class _Loaded(NamedTuple):
    """How one entry point fared. `offers` are pairs of hook and offer."""

    entry: Entry
    hooks: tuple[str, ...] = ()
    offers: tuple[tuple[str, offers.Offer], ...] = ()
    error: ErrorInfo | None = None
    disabled: str = ""
    problems: tuple[ErrorInfo, ...] = ()


class _Table(NamedTuple):
    """The offers of one hook by key; the errors for keys that are claimed twice; and those errors by plugin."""

    offered: dict[str, Offered[Any]]
    conflicts: dict[str, ErrorInfo]
    problems: list[tuple[Entry, ErrorInfo]]


def load_plugins(environ: Mapping[str, str] | None = None, entries: Iterable[Entry] | None = None) -> Plugins:
    """Load every plugin that is installed and allowed. Never raises for what a plugin does.

    `GPUMOD_PLUGINS` is a comma-separated allow list of entry-point names (empty: only the core),
    `GPUMOD_DISABLE_PLUGINS` a deny list; the core itself is always loaded. `entries` replaces the walk.
    """
    environ = os.environ if environ is None else environ
    allowed = _names(environ[ALLOW]) if ALLOW in environ else None
    denied = _names(environ.get(DENY, ""))
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)

    loaded: list[_Loaded] = []
    for entry in find_entries(PLUGINS_GROUP) if entries is None else entries:
        keep_out = _kept_out(entry, allowed, denied)
        loaded.append(_Loaded(entry, disabled=keep_out) if keep_out else _load(manager, entry))
    missing = (allowed or set()) - {one.entry.name for one in loaded}
    loaded += [_not_installed(name) for name in sorted(missing)]
    return _registries(loaded)


def _names(text: str) -> set[str]:
    return {name.strip() for name in text.split(",") if name.strip()}


def _is_core(entry: Entry) -> bool:
    return entry[:3] == CORE


def _kept_out(entry: Entry, allowed: set[str] | None, denied: set[str]) -> str:
    """The variable that keeps `entry` out, or nothing."""
    if _is_core(entry) or entry.unreadable:
        return ""
    if entry.name in denied:
        return DENY
    return ALLOW if allowed is not None and entry.name not in allowed else ""


def _not_installed(name: str) -> _Loaded:
    message = f"{ALLOW} names the plugin {name!r}, which is not installed"
    error = ErrorInfo(code="plugin-not-installed", message=message, hint="correct the name or install the plugin")
    return _Loaded(Entry(name, "", "", ""), error=error)


def _load(manager: pluggy.PluginManager, entry: Entry) -> _Loaded:
    """Import one plugin, register it and ask it; whatever fails unregisters it wholly."""
    registered = f"{entry.name}@{entry.distribution}"
    code = "plugin-import-failed"
    try:
        if entry.unreadable:
            raise Refused("plugin-metadata-broken", entry.unreadable)
        with quietly():
            plugin = entry.load()
            code = "plugin-bad-hook"
            hooks = check_plugin(manager, plugin)
            manager.register(plugin, name=registered)
            code = "plugin-hook-raised"
            collected = _collect(manager, plugin)
    except (Exception, SystemExit) as exc:  # noqa: BLE001  # whatever a stranger's module does
        if manager.has_plugin(registered):
            manager.unregister(name=registered)
        refused = exc if isinstance(exc, Refused) else Refused(code, reason(exc))
        error = ErrorInfo(
            code=refused.code,
            message=f"the plugin {entry} was not loaded",
            why=refused.why,
            hint=refused.hint or f"reinstall or uninstall {entry.distribution}, or name {entry.name} in {DENY}",
        )
        return _Loaded(entry, error=error)
    good, problems = _sort_out(entry, collected)
    return _Loaded(entry, hooks=hooks, offers=good, problems=problems)


def _collect(manager: pluggy.PluginManager, plugin: Any) -> list[tuple[str, Any]]:
    """Everything that the hooks of one plugin return: pairs of hook and offer."""
    collected: list[tuple[str, Any]] = []
    for hook in KINDS:
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin is plugin:
                collected += [(hook, offer) for offer in implementation.function()]
    return collected


def _sort_out(
    entry: Entry, collected: Iterable[tuple[str, Any]]
) -> tuple[tuple[tuple[str, offers.Offer], ...], tuple[ErrorInfo, ...]]:
    """The offers that can be used, and why the others cannot."""
    good: list[tuple[str, offers.Offer]] = []
    problems: list[ErrorInfo] = []
    for hook, offer in collected:
        try:
            check_offer(hook, offer)
        except Refused as exc:
            message = f"the {KINDS[hook].word} {getattr(offer, 'name', offer)!r} of the plugin {entry} is refused"
            hint = exc.hint or f"update {entry.distribution}"
            problems.append(ErrorInfo(code=exc.code, message=message, why=exc.why, hint=hint))
        else:
            good.append((hook, offer))
    return tuple(good), tuple(problems)


def _table(hook: str, loaded: Iterable[_Loaded]) -> _Table:
    """The offers of one hook. A key that two claim is nobody's, except that the core's own stays the core's."""
    claims: dict[str, list[tuple[Entry, offers.Offer]]] = {}
    for one in loaded:
        for offered_by, offer in one.offers:
            if offered_by == hook:
                for key in _keys(offer):
                    claims.setdefault(key, []).append((one.entry, offer))
    table = _Table({}, {}, [])
    for key, claimants in claims.items():
        winners = [claim for claim in claimants if _is_core(claim[0])] or claimants
        if len(winners) == 1:
            entry, offer = winners[0]
            table.offered[key] = Offered(KINDS[hook].word, offer, entry.distribution)
        if len(claimants) > 1:
            owners = [entry for entry, _ in claimants]
            error = _conflict(hook, key, owners)
            table.problems.extend((entry, error) for entry in set(owners) if not _is_core(entry))
            if len(winners) > 1:
                table.conflicts[key] = error
    return table


def _keys(offer: offers.Offer) -> tuple[str, ...]:
    if isinstance(offer, offers.SleepStrategyOffer):
        return tuple(SleepStrategies.key(driver, offer.name) for driver in offer.drivers)
    return (offer.name,)


def _conflict(hook: str, key: str, owners: list[Entry]) -> ErrorInfo:
    core = any(_is_core(entry) for entry in owners)
    return ErrorInfo(
        code="duplicate-offer",
        message=f"the {KINDS[hook].word} {key!r} is offered twice: by {' and by '.join(map(str, owners))}",
        why="gpumod's own is used" if core else "none of them is used: gpumod does not guess which is meant",
        hint=f"uninstall all of them but one, or name the others in {DENY}",
        details={"distributions": [entry.distribution for entry in owners]},
    )


def _registries(loaded: list[_Loaded]) -> Plugins:
    tables = {hook: _table(hook, loaded) for hook in KINDS}
    clashes = [problem for table in tables.values() for problem in table.problems]
    records = tuple(_record(one, [error for entry, error in clashes if entry is one.entry]) for one in loaded)
    hints = install_hints(records)

    def registry(hook: str) -> Registry[Any]:
        table = tables[hook]
        return Registry(KINDS[hook].word, table.offered, table.conflicts, hints)

    def folders(hook: str) -> tuple[Any, ...]:
        return tuple(offered.offer for _, offered in sorted(tables[hook].offered.items()))

    return Plugins(
        drivers=registry("gpumod_drivers"),
        sleep_strategies=SleepStrategies(registry("gpumod_sleep_strategies")),
        estimators=registry("gpumod_vram_estimators"),
        info_sources=registry("gpumod_model_info_sources"),
        supervisors=registry("gpumod_supervisors"),
        gpu_probes=registry("gpumod_gpu_probes"),
        presets=folders("gpumod_presets"),
        templates=folders("gpumod_templates"),
        records=records,
    )


def _record(one: _Loaded, clashes: Iterable[ErrorInfo]) -> PluginRecord:
    return PluginRecord(
        name=one.entry.name,
        distribution=one.entry.distribution,
        version=one.entry.version,
        hooks=one.hooks,
        offers=tuple(OfferRecord(kind=KINDS[hook].word, name=o.name, summary=o.summary) for hook, o in one.offers),
        error=one.error,
        disabled=one.disabled,
        problems=(*one.problems, *clashes),
    )
