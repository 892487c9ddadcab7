"""Reading a `llama-server` command line that somebody else wrote: the inverse of the driver's `launch`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from gpumod.api import CommandLine, Flag, Told, gpus_in, keep_flags, read_flags, words_from
from gpumod_llamacpp.denied import DENIED_FLAGS
from gpumod_llamacpp.options import ALL_LAYERS

PROGRAM = "llama-server"
DEFAULT_PORT = 8080
DEFAULT_HOST = "127.0.0.1"
NAMES: Mapping[Flag, tuple[str, ...]] = {
    Flag("model_path"): ("-m", "--model"),
    Flag("model_id"): ("-hf", "-hfr", "--hf-repo"),
    Flag("port", "int"): ("--port",),
    Flag("bind_host"): ("--host",),
    Flag("alias"): ("-a", "--alias"),
    Flag("context_size", "int"): ("-c", "--ctx-size"),
    Flag("n_gpu_layers"): ("-ngl", "--gpu-layers", "--n-gpu-layers"),
    Flag("fit"): ("-fit", "--fit"),
    Flag("parallel", "int"): ("-np", "--parallel"),
    Flag("cache_type_k"): ("-ctk", "--cache-type-k"),
    Flag("cache_type_v"): ("-ctv", "--cache-type-v"),
    Flag("ubatch_size", "int"): ("-ub", "--ubatch-size"),
    Flag("batch_size", "int"): ("-b", "--batch-size"),
    Flag("n_cpu_moe", "int"): ("-ncmoe", "--n-cpu-moe"),
    Flag("mmproj"): ("-mm", "--mmproj"),
    Flag("model_draft"): ("-md", "--model-draft", "--spec-draft-model"),
    Flag("n_gpu_layers_draft"): ("-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft", "--spec-draft-ngl"),
    Flag("pooling"): ("--pooling",),
    Flag("embeddings", "switch"): ("--embedding", "--embeddings"),
    Flag("reranking", "switch"): ("--rerank", "--reranking"),
    Flag("metrics", "switch"): ("--metrics",),
}
KNOWN = {name: flag for flag, names in NAMES.items() for name in names}
ATTENTION = ("-fa", "--flash-attn")
VARIABLES = {
    "LLAMA_ARG_HOST": "--host",
    "LLAMA_ARG_PORT": "--port",
    "LLAMA_ARG_MODEL": "--model",
    "LLAMA_ARG_CTX_SIZE": "--ctx-size",
}
FIELDS = ("model_path", "model_id", "port", "context_size")
NO_OPTIONS = (*FIELDS, "bind_host", "alias", "metrics", "fit", "n_gpu_layers", "n_gpu_layers_draft")


def read_command(command: CommandLine) -> Told | None:
    """The fields of a service that would be started so; None where it is no llama.cpp server."""
    words = words_from(command.argv, PROGRAM)
    if words is None:
        return None
    attention, plain = _attention(words[1:])
    by_variables = [(flag, command.env[name]) for name, flag in VARIABLES.items() if name in command.env]
    said, rest = read_flags((*(word for pair in by_variables for word in pair), *plain), KNOWN)
    extra, dropped = keep_flags(rest, DENIED_FLAGS)
    notes = [f"left out: {', '.join(dropped)}"] if dropped else []
    binds = str(said.get("bind_host", DEFAULT_HOST))
    options: dict[str, Any] = {"llama_server_bin": words[0]} if "/" in words[0] else {}
    if extra:
        options["extra_args"] = list(extra)
    if "model_path" not in said and "model_id" not in said:
        notes.append("it is a router: the models that it loads by itself are counted as its own")
        fields = {"port": said.get("port", DEFAULT_PORT), "unit_vars": {"router": True, **options}}
        return Told(fields=fields, notes=tuple(notes), binds=binds)
    options |= {name: value for name, value in said.items() if name not in NO_OPTIONS} | attention
    options |= _layers("n_gpu_layers", said) | _layers("n_gpu_layers_draft", said)
    if said.get("fit", "on") != "off" and "n_gpu_layers" not in said:
        notes.append("it fits itself into what is free (--fit): what it takes may differ from start to start")
    fields = {"port": DEFAULT_PORT, **{name: said[name] for name in FIELDS if name in said}, "unit_vars": options}
    if fields.get("context_size") == 0:  # the model's own
        del fields["context_size"]
    for name, place in (("model_path", fields), ("mmproj", options), ("model_draft", options)):
        if name in place:
            place[name] = str(PurePosixPath(command.cwd or "/", place[name]))
    if visible := gpus_in(command.env):
        fields["gpus"] = visible
    return Told(fields=fields, notes=tuple(notes), binds=binds)


def _attention(words: tuple[str, ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What `-fa` says, which may stand without a value, and the other words."""
    out: list[str] = []
    found: dict[str, str] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, given = word.partition("=")
        if name not in ATTENTION:
            out.append(word)
            continue
        value = given if equals else waiting.pop(0) if waiting and not waiting[0].startswith("-") else "on"
        found["flash_attn"] = {"1": "on", "true": "on", "0": "off", "false": "off"}.get(value, value)
    return found, tuple(out)


def _layers(option: str, said: Mapping[str, Any]) -> dict[str, int]:
    """A number of layers: all of them for `all`; nothing for `auto`."""
    text = str(said.get(option, ""))
    if text.isdigit():
        return {option: min(int(text), ALL_LAYERS)}
    return {option: ALL_LAYERS} if text == "all" else {}
