"""The lines with which a vLLM says why it will never be ready, most telling first.

A start is ended at the first of them, so that none may be of what vLLM gets over: a look for a model's files that is
tried again, a kernel that the autotuner leaves out, a port within the engine that was taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumod.api import AlternativeKind, LogRule, Variant

LESS = "lower gpu_memory_utilization (or vram_mb), or stop what else is on the GPU"
SHORTER = "raise vram_mb, or have a context of {length} tokens"


def shorter(groups: Mapping[str, str]) -> Variant:
    """The context that vLLM says its KV cache holds."""
    tokens = int(groups["length"])
    title, options = f"a context of {tokens} tokens", {"max_model_len": tokens}
    return Variant(kind=AlternativeKind.CONTEXT, title=title, unit_vars=options, saves_mb=0)


RULES = (
    LogRule(
        "out-of-memory",
        re.compile(
            r"Free memory on device (?:\S+ )?\((?P<have>[\d.]+)/[\d.]+ GiB\).*"
            r"is less than desired GPU memory utilization \([\d.]+, (?P<need>[\d.]+) GiB\)"
        ),
        LESS,
        "GiB",
    ),
    LogRule("out-of-memory", re.compile(r"is less than desired GPU memory utilization"), LESS),
    LogRule(
        "out-of-memory",
        re.compile(
            r"\((?P<need>[\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory "
            r"\((?P<have>[\d.]+) GiB\).*estimated maximum model length is (?P<length>[1-9]\d{0,8})"
        ),
        SHORTER,
        "GiB",
        shorter,
    ),
    LogRule(
        "out-of-memory",
        re.compile(r"larger than the available KV cache.*estimated maximum model length is (?P<length>[1-9]\d{0,8})"),
        SHORTER,
        remedy=shorter,
    ),
    LogRule(
        "out-of-memory",
        re.compile(
            r"\((?P<need>[\d.]+) GiB KV cache is needed, which is larger than the available KV cache memory "
            r"\((?P<have>[\d.]+) GiB\)"
        ),
        "set a smaller context_size, or raise vram_mb",
        "GiB",
    ),
    LogRule(
        "out-of-memory",
        re.compile(r"larger than the available KV cache"),
        "set a smaller context_size, or raise vram_mb",
    ),
    LogRule(
        "out-of-memory",
        re.compile(
            r"out of memory\. Tried to allocate (?P<need>[\d.]+) (?P<need_unit>[KMGT]iB)"
            r".*?of which (?P<have>[\d.]+) (?P<have_unit>[KMGT]iB) is free",
            re.IGNORECASE,
        ),
        LESS,
    ),
    LogRule(
        "out-of-memory",
        re.compile(r"out of memory\. Tried to allocate (?P<need>[\d.]+) (?P<need_unit>[KMGT]iB)", re.IGNORECASE),
        LESS,
    ),
    LogRule("out-of-memory", re.compile(r"Failed to load model - not enough GPU memory"), LESS),
    LogRule(
        "out-of-memory",
        re.compile(r"No available memory for the cache blocks"),
        "raise gpu_memory_utilization (or vram_mb), or set a smaller context_size",
    ),
    LogRule("out-of-memory", re.compile(r"CUDA (error: )?out of memory|OutOfMemoryError(?!: out of resource)"), LESS),
    LogRule(
        "port-taken",
        re.compile(r"\[Errno 98\]|Error: [Aa]ddress already in use"),
        "give the service another port, or stop what listens there",
    ),
    LogRule(
        "bad-model",
        re.compile(
            r"Invalid repository ID or local directory|is not a valid model identifier|"
            r"Model architectures .* are not supported|does not recognize this architecture|"
            r"HFValidationError: Repo id must"
        ),
        "check model_id and model_path, and that this vLLM knows the model",
    ),
    LogRule(
        "bad-option",
        re.compile(r"error: (unrecognized arguments?|argument |ambiguous option)"),
        "check unit_vars; `vllm serve --help` shows what the installed version takes",
    ),
    LogRule("crashed", re.compile(r"EngineCore failed to start|Engine core initialization failed|EngineDeadError")),
)
