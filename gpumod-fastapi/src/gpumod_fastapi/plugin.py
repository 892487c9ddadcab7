"""What gpumod-fastapi offers. The heavy parts are imported when they are used."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from gpumod.api import (
    Driver,
    DriverOffer,
    PresetsOffer,
    SleepStrategy,
    SleepStrategyOffer,
    TemplatesOffer,
    hookimpl,
)


def _driver() -> Driver:
    from gpumod_fastapi.driver import FastApiDriver  # noqa: PLC0415  # lazy on purpose, as below

    return FastApiDriver()


def _http_sleep() -> SleepStrategy:
    from gpumod_fastapi.sleep import HttpSleep  # noqa: PLC0415 - only who uses it pays for the import

    return HttpSleep()


def _ollama() -> Driver:
    from gpumod_fastapi.ollama.driver import OllamaDriver  # noqa: PLC0415 - only who uses it pays for the import

    return OllamaDriver()


def _unload_sleep() -> SleepStrategy:
    from gpumod_fastapi.ollama.sleep import UnloadSleep  # noqa: PLC0415 - only who uses it pays for the import

    return UnloadSleep()


@hookimpl
def gpumod_drivers() -> Iterable[DriverOffer]:
    return [
        DriverOffer(name="fastapi", summary="any command that serves HTTP on a port", factory=_driver),
        DriverOffer(name="ollama", summary="an Ollama of this machine, a host of its models", factory=_ollama),
    ]


@hookimpl
def gpumod_sleep_strategies() -> Iterable[SleepStrategyOffer]:
    own = "calls to the service's own sleep_path and wake_path"
    unload = "an Ollama unloads the model"
    return [
        SleepStrategyOffer(name="http", summary=own, drivers=("fastapi",), factory=_http_sleep),
        SleepStrategyOffer(name="unload", summary=unload, drivers=("ollama",), factory=_unload_sleep),
    ]


@hookimpl
def gpumod_templates() -> Iterable[TemplatesOffer]:
    folder = Path(__file__).parent / "templates"
    return [TemplatesOffer(name="fastapi", summary="systemd unit of an HTTP service", folder=folder)]


@hookimpl
def gpumod_presets() -> Iterable[PresetsOffer]:
    """Ollama's where it is installed: elsewhere it would be a definition that nothing can start."""
    folder = Path(__file__).parent / "presets"
    found = [PresetsOffer(name="comfyui", summary="ComfyUI, which frees by /free", folder=folder / "comfyui")]
    if shutil.which("ollama"):
        found.append(PresetsOffer(name="ollama", summary="Ollama as a host of its models", folder=folder / "ollama"))
    return found
