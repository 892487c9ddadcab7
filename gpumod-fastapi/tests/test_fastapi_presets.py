"""The shipped presets of ComfyUI and Ollama load, and are launched as they say."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpumod_fastapi
from gpumod.adapters.presets import load_presets
from gpumod.api import Allocation, Settings
from gpumod_fastapi.driver import FastApiDriver
from gpumod_fastapi.ollama.driver import OllamaDriver
from gpumod_fastapi.plugin import gpumod_presets

FOLDER = Path(gpumod_fastapi.__file__).parent / "presets"


def test_the_presets_load_and_are_launched() -> None:
    catalogue = load_presets([("fastapi", FOLDER)], Settings())
    assert catalogue.problems == ()
    comfy, ollama = (catalogue.services[name].value for name in ("comfyui", "ollama"))
    argv = FastApiDriver().launch(comfy, Allocation(), Settings()).argv
    assert argv == ("python3", "main.py", "--listen", "127.0.0.1", "--port", str(comfy.port))
    assert OllamaDriver().launch(ollama, Allocation(), Settings()).env["OLLAMA_HOST"] == f"127.0.0.1:{ollama.port}"


def test_ollamas_preset_is_offered_where_ollama_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [offer.name for offer in gpumod_presets()] == ["comfyui"]
    program = tmp_path / "ollama"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    offers = list(gpumod_presets())
    assert [offer.name for offer in offers] == ["comfyui", "ollama"]
    assert all(list(offer.folder.glob("*.yaml")) for offer in offers)
