"""The folder of an Ollama's models: a manifest for each, whose layers tell how large the weights are."""

# pathlib would cost the stand-ins milliseconds at every start.
# ruff: noqa: PTH118

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from gpumod_sim.machine import read_json

MIB = 1024 * 1024
LIBRARY = "registry.ollama.ai/library"
WEIGHTS = "application/vnd.ollama.image.model"


class Model:
    """A model of the folder: its name, its file of weights, and their bytes. One with a `remote_host` runs there, one
    that `embeds` does nothing else."""

    def __init__(self, name: str, weights: str, size: int, remote_host: str = "", *, embeds: bool = False) -> None:
        self.name, self.weights, self.size, self.remote_host = name, weights, size, remote_host
        self.embeds = embeds

    @property
    def mb(self) -> int:
        return -(-self.size // MIB)

    def entry(self) -> dict[str, Any]:
        """What GET /api/tags shows."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        details = {"format": "gguf", "family": "llama", "quantization_level": "Q4_K_M"}
        far = {"remote_host": self.remote_host} if self.remote_host else {}
        return {"name": self.name, "model": self.name, "size": self.size, "digest": digest, "details": details, **far}


def models_in(folder: str) -> Iterator[Model]:
    """Every model whose manifest can be read."""
    top = os.path.join(folder, "manifests")
    for place, _, files in os.walk(top):
        for tag in sorted(files):
            manifest = read_json(os.path.join(place, tag), {})
            layers = [layer for layer in manifest.get("layers", ()) if layer.get("mediaType") == WEIGHTS]
            if layers:
                name = f"{os.path.relpath(place, top)}:{tag}".removeprefix(f"{LIBRARY}/")
                blob = os.path.join(folder, "blobs", str(layers[0]["digest"]).replace(":", "-"))
                size, far = int(layers[0]["size"]), manifest.get("remote_host", "")
                yield Model(name, blob, size, far, embeds=manifest.get("embeds", False))


def add_model(folder: str, name: str, mb: int, remote_host: str = "", *, embeds: bool = False) -> None:
    """Write the manifest of a model of the library (`llama3:8b`) with weights of `mb` MiB."""
    base, _, tag = name.partition(":")
    place = os.path.join(folder, "manifests", LIBRARY, base)
    os.makedirs(place, exist_ok=True)  # noqa: PTH103 - a stand-in starts often: pathlib costs start-up time
    digest = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
    layer = {"mediaType": WEIGHTS, "digest": digest, "size": mb * MIB}
    with open(os.path.join(place, tag or "latest"), "w", encoding="utf-8") as file:  # noqa: PTH123 - a stand-in starts often: pathlib costs start-up time
        json.dump({"schemaVersion": 2, "layers": [layer], "remote_host": remote_host, "embeds": embeds}, file)
