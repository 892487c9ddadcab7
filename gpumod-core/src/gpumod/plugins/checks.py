"""What a plugin must keep to be accepted: its API number, its hooks, and each of its offers."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

import pluggy

from gpumod.domain.base import is_id
from gpumod.plugins import offers


class Kind(NamedTuple):
    """What a hook offers: the word for one of them, and the class of its records."""

    word: str
    offer: type[offers.Offer]


KINDS: dict[str, Kind] = {
    "gpumod_drivers": Kind("driver", offers.DriverOffer),
    "gpumod_sleep_strategies": Kind("sleep level", offers.SleepStrategyOffer),
    "gpumod_vram_estimators": Kind("VRAM estimator", offers.VramEstimatorOffer),
    "gpumod_model_info_sources": Kind("model info source", offers.ModelInfoSourceOffer),
    "gpumod_supervisors": Kind("supervisor", offers.SupervisorOffer),
    "gpumod_gpu_probes": Kind("GPU probe", offers.GpuProbeOffer),
    "gpumod_presets": Kind("presets folder", offers.PresetsOffer),
    "gpumod_templates": Kind("templates folder", offers.TemplatesOffer),
}


class Refused(Exception):
    """A plugin is not accepted: a code, why, and what to try. Never leaves the plugins package."""

    def __init__(self, code: str, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.code, self.why, self.hint = code, why, hint


def check_plugin(manager: pluggy.PluginManager, plugin: Any) -> tuple[str, ...]:
    """The hooks that `plugin` implements. Raises Refused for another API, unknown or unmarked hooks, and wrappers."""
    api = getattr(plugin, "GPUMOD_PLUGIN_API", offers.PLUGIN_API)
    if api != offers.PLUGIN_API:
        why = f"it wants plugin API {api!r}; this gpumod has {offers.PLUGIN_API}"
        raise Refused("plugin-api-mismatch", why, "install versions of gpumod-core and of the plugin that agree")
    hooks: list[str] = []
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None:
            if attribute in KINDS and callable(getattr(plugin, attribute)):
                raise Refused("plugin-bad-hook", f"{attribute} is not marked with @hookimpl")
            continue
        hook = options.get("specname") or attribute
        if options.get("wrapper") or options.get("hookwrapper"):
            raise Refused("plugin-bad-hook", f"{attribute} is a hook wrapper; hooks of gpumod only offer")
        if hook in KINDS:
            hooks.append(hook)
        elif not options.get("optionalhook"):
            close = difflib.get_close_matches(hook, KINDS, n=1)
            hint = f"did its author mean {close[0]}?" if close else f"the hooks are {', '.join(KINDS)}"
            raise Refused("plugin-unknown-hook", f"it implements {hook}, and there is no such hook", hint)
    return tuple(sorted(hooks))


def check_offer(hook: str, offer: Any) -> None:
    """Raise Refused when `offer` cannot be used as what `hook` offers."""
    kind = KINDS[hook]
    if not isinstance(offer, kind.offer):
        why = f"{hook} returned a {type(offer).__name__}, not a {kind.offer.__name__}"
        raise Refused("plugin-bad-offer", why)
    if offer.api != offers.PLUGIN_API:
        why = f"it was made for plugin API {offer.api!r}; this gpumod has {offers.PLUGIN_API}"
        raise Refused("plugin-api-mismatch", why)
    if not isinstance(offer.name, str) or not is_id(offer.name):
        why = f"{offer.name!r} cannot be a name: letters, digits, dot, dash and underscore only"
        raise Refused("plugin-bad-offer", why)
    if not isinstance(offer.summary, str):
        raise Refused("plugin-bad-offer", f"its summary is a {type(offer.summary).__name__}, not a text")
    drivers = getattr(offer, "drivers", ())
    if not isinstance(drivers, tuple) or not all(isinstance(driver, str) and is_id(driver) for driver in drivers):
        raise Refused("plugin-bad-offer", f"drivers must be a tuple of names, not {drivers!r}")
    for field in ("factory", "available"):
        if not callable(getattr(offer, field, print)):
            raise Refused("plugin-bad-offer", f"its {field} cannot be called")
    folder = getattr(offer, "folder", Path())
    if not isinstance(folder, Path):
        raise Refused("plugin-bad-offer", f"its folder is a {type(folder).__name__}, not a Path")
