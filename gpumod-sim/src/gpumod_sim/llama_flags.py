"""The options of llama-server that the stand-in knows, and its preset files, in llama.cpp's own dialect."""

from __future__ import annotations

import re
from collections.abc import Mapping

STATE = "on|enabled|true|1|off|disabled|false|0|auto|-1"
CACHE = "f32|f16|bf16|q8_0|q4_0|q4_1|iq4_nl|q5_0|q5_1"
TABLE: dict[str, str] = {
    "model": "text", "hf-repo": "text", "hf-file": "text", "mmproj": "text", "alias": "text", "host": "text",
    "port": "int", "ctx-size": "int", "n-gpu-layers": "text", "n-predict": "int", "parallel": "int",
    "batch-size": "int", "ubatch-size": "int", "threads": "int", "threads-batch": "int", "threads-http": "int",
    "flash-attn": STATE,
    "cache-type-k": CACHE, "cache-type-v": CACHE, "fit": STATE, "fit-target": "text", "fit-ctx": "int",
    "api-key": "text", "api-key-file": "text", "embeddings": "switch", "reranking": "switch", "pooling": "text",
    "metrics": "switch", "slots": "switch", "props": "switch", "jinja": "switch", "chat-template": "text",
    "chat-template-file": "text", "split-mode": "text", "tensor-split": "text", "main-gpu": "int", "device": "text",
    "override-tensor": "text", "cpu-moe": "switch", "n-cpu-moe": "int", "kv-offload": "switch", "kv-unified": "switch",
    "swa-full": "switch", "cache-ram": "int", "cache-reuse": "int", "cache-prompt": "switch", "load-mode": "text",
    "warmup": "switch", "timeout": "int", "sleep-idle-seconds": "int", "temp": "float", "top-k": "int",
    "top-p": "float", "min-p": "float", "seed": "int", "model-draft": "text", "gpu-layers-draft": "text",
    "models-preset": "text", "models-max": "int", "models-autoload": "switch", "log-disable": "switch",
    "log-file": "text", "log-verbosity": "int", "log-prefix": "switch", "log-timestamps": "switch",
    "reasoning-format": "text", "reasoning-budget": "int", "rope-scaling": "text", "rope-scale": "float",
    "op-offload": "switch", "repack": "switch", "check-tensors": "switch", "lora": "text", "ui": "switch",
    "webui": "switch", "cont-batching": "switch", "version": "end",
}  # fmt: skip

SHORT = {
    "m": "model", "hf": "hf-repo", "hfr": "hf-repo", "hff": "hf-file", "mm": "mmproj", "a": "alias", "c": "ctx-size",
    "ngl": "n-gpu-layers", "n": "n-predict", "np": "parallel", "b": "batch-size", "ub": "ubatch-size", "t": "threads",
    "tb": "threads-batch", "fa": "flash-attn", "ctk": "cache-type-k", "ctv": "cache-type-v", "fitt": "fit-target",
    "fitc": "fit-ctx", "sm": "split-mode", "ts": "tensor-split", "mg": "main-gpu", "dev": "device",
    "ot": "override-tensor", "cmoe": "cpu-moe", "ncmoe": "n-cpu-moe", "kvu": "kv-unified", "cram": "cache-ram",
    "lv": "log-verbosity", "md": "model-draft", "ngld": "gpu-layers-draft", "s": "seed", "to": "timeout",
    "lm": "load-mode",
}  # fmt: skip
_LONG = {"gpu-layers": "n-gpu-layers", "embedding": "embeddings", "rerank": "reranking", "verbosity": "log-verbosity"}

ALIASES = {**{f"-{short}": name for short, name in SHORT.items()},
           **{f"--{long}": name for long, name in _LONG.items()}, "-nkvo": "no-kv-offload"}  # fmt: skip

MODEL_CONTEXT = 4096
"""Tokens of context that a model of the stand-in was trained for: what it gets where none, or 0, is asked for."""

PRESET_ONLY = {"load-on-startup", "stop-timeout"}
# The router gives these to its children itself; presets may not.
CONTROLLED = {"host", "port", "api-key", "api-key-file", "models-preset", "models-max", "models-autoload"}

_VRAM = re.compile(r"^\s*[;#]\s*gpumod:\s*vram_mb\s*=\s*(\d+)\s*$")


class PresetError(Exception):
    """The preset file cannot be used; the text is llama.cpp's."""


class Preset:
    """One section: its options by long name, and what the simulation is told that it takes (MiB)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.options: dict[str, str] = {}
        self.vram_mb: int | None = None

    @property
    def aliases(self) -> list[str]:
        return [alias.strip() for alias in self.options.get("alias", "").split(",") if alias.strip()]

    @property
    def stop_timeout_s(self) -> float:
        return float(self.options.get("stop-timeout", "10"))

    def text(self) -> str:
        """The section as a preset file has it."""
        return "\n".join([f"[{self.name}]", *(f"{key} = {value}" for key, value in self.options.items())]) + "\n"

    def argv(self) -> list[str]:
        """The options as a child is given them."""
        words: list[str] = []
        for key, value in self.options.items():
            if key in PRESET_ONLY or key in CONTROLLED or key == "alias":
                continue
            if TABLE.get(key) == "switch":
                words.append(f"--{key}" if _is_true(value) else f"--no-{key}")
            else:
                words += [f"--{key}", value]
        return words


def read_presets(text: str) -> dict[str, Preset]:
    """The models of a preset file, with the defaults of `[*]`. Raises PresetError.

    Comments start with `;` or `#` anywhere, nothing is quoted, and a repeated section replaces the earlier one.
    """
    sections: dict[str, Preset] = {}
    here: Preset | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        note = _VRAM.match(raw)
        if note and here:
            here.vram_mb = int(note[1])
        line = re.split(r"[;#]", raw, maxsplit=1)[0].strip()
        if not line:
            continue
        if line.startswith("[") and line.endswith("]"):
            here = sections[line[1:-1].strip()] = Preset(line[1:-1].strip())
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise PresetError(f"failed to parse server config file: line {number}: {line}")
        if here is not None:
            here.options[_option(key, here.name)] = _value(key, value)
        elif key != "version":
            raise PresetError(f"failed to parse server config file: line {number}: {line}")
    shared = sections.pop("*", Preset("*"))
    for preset in sections.values():
        preset.options = {**shared.options, **preset.options}
    _refuse_repeated_aliases(sections)
    return sections


def _option(key: str, section: str) -> str:
    """The long name of a key: a long name, a short one, `no-NAME`, or an environment variable's."""
    name = SHORT.get(key, key)
    if key.startswith("LLAMA_ARG_"):
        name = key.removeprefix("LLAMA_ARG_").lower().replace("_", "-")
    name = _LONG.get(name, name)
    if name in TABLE or name in PRESET_ONLY:
        return name
    if name.startswith("no-") and TABLE.get(name[3:]) == "switch":
        return name[3:]
    raise PresetError(f"option '{key}' not recognized in preset '{section}'")


def _value(key: str, value: str) -> str:
    if key.startswith("no-") and TABLE.get(key[3:]) == "switch":
        return "false" if _is_true(value) else "true"
    return value


def _is_true(value: str) -> bool:
    return value.lower() in ("true", "1", "on", "yes", "enabled")


def _refuse_repeated_aliases(sections: Mapping[str, Preset]) -> None:
    seen: set[str] = set(sections)
    for preset in sections.values():
        for alias in preset.aliases:
            if alias in seen and alias != preset.name:
                raise PresetError(f"alias '{alias}' of preset '{preset.name}' is used twice")
            seen.add(alias)
