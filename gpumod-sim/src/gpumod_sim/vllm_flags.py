"""The flags of `vllm serve` that the stand-in knows. Unknown ones fail, as the real program does."""

from __future__ import annotations

import re

TABLE: dict[str, str] = {
    "host": "text", "port": "int", "model": "text", "served-model-name": "list", "api-key": "list",
    "gpu-memory-utilization": "float", "kv-cache-memory-bytes": "text", "max-model-len": "text",
    "max-num-seqs": "int", "max-num-batched-tokens": "int", "dtype": "text", "quantization": "text",
    "kv-cache-dtype": "text", "enable-sleep-mode": "switch", "sleep-mode-backend": "text",
    "enforce-eager": "switch", "runner": "text", "convert": "text", "tensor-parallel-size": "int",
    "pipeline-parallel-size": "int", "load-format": "text", "cpu-offload-gb": "float", "swap-space": "float",
    "trust-remote-code": "switch", "revision": "text", "tokenizer": "text", "tokenizer-mode": "text",
    "download-dir": "text", "seed": "int", "optimization-level": "text", "compilation-config": "text",
    "enable-prefix-caching": "switch", "enable-chunked-prefill": "switch", "async-scheduling": "switch",
    "disable-log-stats": "switch", "enable-server-load-tracking": "switch", "shutdown-timeout": "int",
    "uvicorn-log-level": "text", "disable-access-log-for-endpoints": "text",
    "enable-auto-tool-choice": "switch", "tool-call-parser": "text",
    "reasoning-parser": "text", "chat-template": "text", "hf-overrides": "text", "hf-token": "text",
    "limit-mm-per-prompt": "text", "generation-config": "text", "override-generation-config": "text",
    "enable-lora": "switch", "lora-modules": "list", "max-loras": "int", "max-cpu-loras": "int",
    "max-lora-rank": "int", "kv-transfer-config": "text", "block-size": "int",
    "attention-backend": "text", "task-type": "text", "root-path": "text", "disable-access-log": "switch",
    "enable-log-requests": "switch", "distributed-executor-backend": "text", "data-parallel-size": "int",
    "speculative-config": "text", "max-logprobs": "int", "skip-mm-profiling": "switch", "pooler-config": "text",
}  # fmt: skip

ALIASES = {"-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size", "-dp": "data-parallel-size",
           "-q": "quantization", "-O": "optimization-level"}  # fmt: skip

CHOICES = {
    "runner": ("auto", "draft", "generate", "pooling"),
    "convert": ("auto", "classify", "embed", "none"),
    "dtype": ("auto", "bfloat16", "float", "float16", "float32", "half"),
}

# By a word in the model's name or in --quantization; 16 bit where there is none.
_BYTES_PER_PARAMETER = {
    **dict.fromkeys(("awq", "gptq", "int4", "4bit", "4-bit", "w4a16"), 0.6),
    **dict.fromkeys(("nvfp4", "mxfp4", "bitsandbytes", "gpt-oss"), 0.6),
    **dict.fromkeys(("fp8", "int8", "8bit", "8-bit", "w8a8", "w8a16"), 1.1),
}  # fmt: skip
_SUFFIXES = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4,
             "ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}  # fmt: skip


def size_bytes(text: str) -> int:
    """The bytes in `8589934592`, `8G` (decimal) or `8Gi`. Raises ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgGtT]?i?)[bB]?", text)
    if match is None or match[2].lower() not in _SUFFIXES:
        raise ValueError(text)
    # An upper-case letter alone counts in 1024, a lower-case one in 1000.
    suffix = match[2].lower() + ("i" if match[2].isupper() else "")
    return int(float(match[1]) * _SUFFIXES[suffix])


def guessed_weights_mb(model: str, quantization: str) -> int | None:
    """MiB of weights by the number of parameters in the model's name (`Qwen3-0.6B`), or None."""
    sizes = re.findall(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])", model)
    if not sizes:
        return None
    number, unit = sizes[0]
    parameters = float(number) * (1e9 if unit in "bB" else 1e6)
    hint = f"{quantization} {model}".lower()
    per_parameter = next((size for word, size in _BYTES_PER_PARAMETER.items() if word in hint), 2.0)
    return int(parameters * per_parameter / 1024 / 1024)
