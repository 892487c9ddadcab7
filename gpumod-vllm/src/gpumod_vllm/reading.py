"""Reading a `vllm serve` command line that somebody else wrote: the inverse of the driver's `launch`."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from typing import Any

from gpumod.api import CommandLine, Flag, Told, gpus_in, keep_flags, read_flags, words_from
from gpumod_vllm.options import DENIED_FLAGS, MOVES_KV, WHOLE, defeats_sleep, moves_kv

DEFAULT_PORT = 8000
EVERY_ADDRESS = "0.0.0.0"  # noqa: S104  # what vLLM listens on where it is not told
DEFAULT_UTILIZATION = 0.92
"""vLLM's own (0.90 in older ones, of which this is the safe side)."""
SERVERS = ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.api_server")
KNOWN = {
    "--model": Flag("model"),
    "--port": Flag("port", "int"),
    "--host": Flag("bind_host"),
    "--gpu-memory-utilization": Flag("gpu_memory_utilization", "float"),
    "--device-memory-utilization": Flag("gpu_memory_utilization", "float"),
    "--kv-cache-memory-bytes": Flag("kv_cache_memory_bytes", "int"),
    "--max-model-len": Flag("max_model_len"),
    "--max-num-seqs": Flag("max_num_seqs", "int"),
    "--dtype": Flag("dtype"),
    "--quantization": Flag("quantization"),
    "-q": Flag("quantization"),
    "--kv-cache-dtype": Flag("kv_cache_dtype"),
    "--tensor-parallel-size": Flag("tensor_parallel_size", "int"),
    "-tp": Flag("tensor_parallel_size", "int"),
    "-t": Flag("tensor_parallel_size", "int"),  # as argparse takes it
    "--runner": Flag("runner"),
    "--convert": Flag("convert"),
    "--served-model-name": Flag("served_model_name"),
    "--load-format": Flag("load_format"),
    "--enforce-eager": Flag("enforce_eager", "switch"),
    "--enable-sleep-mode": Flag("sleeps", "switch"),
    "--enable-lora": Flag("enable_lora", "switch"),
    "--max-loras": Flag("max_loras", "int"),
    "--max-cpu-loras": Flag("max_cpu_loras", "int"),
    "--max-lora-rank": Flag("max_lora_rank", "int"),
}
NO_OPTIONS = ("model", "port", "bind_host", "max_model_len", "sleeps")
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)([kKmM]?)")
_STEPS = {"": 1, "k": 1000, "K": 1024, "m": 1000**2, "M": 1024**2}


def read_command(command: CommandLine) -> Told | None:
    """The fields of a service that would be started so; None where it is no vLLM server."""
    words, options = _arguments(command.argv)
    if words is None:
        return None
    model = words[0] if words and not words[0].startswith("-") else None
    words, adapters = _values_of("--lora-modules", words[1:] if model else words)
    words, names = _values_of("--served-model-name", words)
    said, rest = read_flags((*(("--served-model-name", names[0]) if names else ()), *words), KNOWN)
    model = model or said.get("model")
    extra, dropped = keep_flags(rest, DENIED_FLAGS, abbreviations=True, whole=WHOLE)
    notes = [f"left out: {', '.join(dropped)}"] if dropped else []
    if names[1:]:
        notes.append(f"it answers to {names[0]} alone: further names are left out ({', '.join(names[1:])})")
    fields: dict[str, Any] = {"port": said.get("port", DEFAULT_PORT)}
    if model:
        fields["model_path" if model.startswith(("/", "./", "../", "~")) else "model_id"] = model
    options |= {name: value for name, value in said.items() if name not in NO_OPTIONS}
    if adapters:
        options["lora_modules"] = _by_name(adapters)
        options.pop("enable_lora", None)
    fields |= _length(said.get("max_model_len"), options) | _place(said.get("tensor_parallel_size", 1), command)
    if "gpu_memory_utilization" not in said and "kv_cache_memory_bytes" not in said:
        options["gpu_memory_utilization"] = DEFAULT_UTILIZATION
        notes.append(f"it does not say gpu_memory_utilization: vLLM's own {DEFAULT_UTILIZATION} is counted")
    if said.get("sleeps"):
        if hindered := _why_it_cannot_sleep(command, extra):
            notes.append(f"it cannot be put to sleep: {hindered}")
        else:
            fields["sleep_mode"] = "l1"
    if extra:
        options["extra_args"] = list(extra)
    binds = str(said.get("bind_host") or EVERY_ADDRESS)
    return Told(fields={**fields, "unit_vars": options}, notes=tuple(notes), binds=binds)


def _arguments(argv: tuple[str, ...]) -> tuple[tuple[str, ...] | None, dict[str, Any]]:
    """What follows `vllm serve`, or the module of the server; and the option that names the program."""
    words = words_from(argv, "vllm")
    if words is not None and words[1:2] == ("serve",):
        return words[2:], {"vllm_bin": words[0]} if "/" in words[0] else {}
    modules = (words_from(argv, module) for module in SERVERS)
    return next((words[1:] for words in modules if words is not None), None), {}


def _why_it_cannot_sleep(command: CommandLine, extra: tuple[str, ...]) -> str:
    """What defeats sleep although it was enabled; "" where nothing does."""
    if command.env.get("VLLM_SERVER_DEV_MODE") != "1":
        return "it runs without VLLM_SERVER_DEV_MODE=1"
    if name := defeats_sleep(command.env):
        return f"with {name}=expandable_segments:True it would say that it sleeps and free nothing"
    return f"what {MOVES_KV} names reads and writes the memory that sleep frees" if moves_kv(extra) else ""


def _values_of(flag: str, words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words without `flag`, which takes all up to the next one, and what it takes: the last one, as argparse."""
    left: list[str] = []
    values: tuple[str, ...] = ()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and word.replace("_", "-") == flag:
            values = tuple(itertools.takewhile(lambda word: not word.startswith("-"), rest))
            del rest[: len(values)]
        else:
            left.append(word)
    return tuple(left), values


def _by_name(adapters: tuple[str, ...]) -> dict[str, str]:
    """Adapters that are named as NAME=PATH or as JSON."""
    found: dict[str, str] = {}
    for word in adapters:
        name, _, path = word.partition("=")
        with contextlib.suppress(ValueError, TypeError):
            told = json.loads(word)
            name, path = str(told["name"]), str(told["path"])
        found[name] = path
    return found


def _place(spans: int, command: CommandLine) -> dict[str, Any]:
    """The GPUs that it sees and uses, the first ones where it is not told."""
    visible = gpus_in(command.env)
    if spans > 1:
        return {"gpus": visible[:spans] if visible and len(visible) >= spans else tuple(range(spans))}
    return {"gpus": visible[:1]} if visible else {}


def _length(said: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """`--max-model-len` as a context size: 8192, 32k (thousands) or 32K (of 1024), `auto` as an option."""
    if said is None:
        return {}
    match = _LENGTH.fullmatch(said)
    if match is None:
        options["max_model_len"] = "auto"
        return {}
    return {"context_size": int(float(match[1]) * _STEPS[match[2]])}
