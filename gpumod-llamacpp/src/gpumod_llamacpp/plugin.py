"""What gpumod-llamacpp offers. The heavy parts are imported when they are used."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gpumod.api import Driver, DriverOffer, SleepStrategy, SleepStrategyOffer, TemplatesOffer, hookimpl


def _driver() -> Driver:
    from gpumod_llamacpp.driver import LlamaCppDriver  # noqa: PLC0415  # lazy on purpose, as below

    return LlamaCppDriver()


def _router_sleep() -> SleepStrategy:
    from gpumod_llamacpp.sleep import RouterSleep  # noqa: PLC0415 - only who uses it pays for the import

    return RouterSleep()


@hookimpl
def gpumod_drivers() -> Iterable[DriverOffer]:
    summary = "llama.cpp: a router that hosts many models, or a server of one"
    return [DriverOffer(name="llamacpp", summary=summary, factory=_driver)]


@hookimpl
def gpumod_sleep_strategies() -> Iterable[SleepStrategyOffer]:
    summary = "a router's member is unloaded and stays configured"
    return [SleepStrategyOffer(name="router", summary=summary, drivers=("llamacpp",), factory=_router_sleep)]


@hookimpl
def gpumod_templates() -> Iterable[TemplatesOffer]:
    folder = Path(__file__).parent / "templates"
    return [TemplatesOffer(name="llamacpp", summary="a router's preset file, and the systemd unit", folder=folder)]
