"""The lines with which a llama-server says why it will never be ready, most telling first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpumod.api import LogRule, Service

LESS = "set a smaller context_size or n_gpu_layers, or stop what else is on the GPU"

RULES = (
    LogRule(
        "out-of-memory",
        re.compile(r"allocating (?P<need>[\d.]+) (?P<need_unit>[KMG]iB) on device \d+: cudaMalloc failed"),
        LESS,
    ),
    LogRule(
        "out-of-memory",
        re.compile(r"failed to allocate (?:CUDA|ROCm|Vulkan|SYCL|Metal)\S* buffer of size (?P<need>\d+)"),
        LESS,
        "B",
    ),
    LogRule("out-of-memory", re.compile(r"unable to allocate|cudaMalloc failed: out of memory|"
                                        r"CUDA error: out of memory|failed to allocate .*buffer"), LESS),
    LogRule(
        "port-taken",
        re.compile(r"couldn't bind HTTP server socket"),
        "give the service another port, or stop what listens there",
    ),
    LogRule(
        "bad-option",
        re.compile(r"error: invalid argument|error while handling argument|option '.*' not recognized in preset"),
        "check unit_vars; `llama-server --help` shows what the installed version takes",
    ),
    LogRule(
        "bad-model",
        re.compile(r"failed to load model|error loading model|failed to open GGUF file|unknown model architecture"),
        "check model_path and model_id: does the file exist, is it whole, does this llama.cpp know its architecture?",
    ),
    LogRule("crashed", re.compile(r"GGML_ASSERT|CUDA error|ggml_abort|terminate called")),
)  # fmt: skip


def own_lines(service: Service, lines: Sequence[str]) -> Sequence[str]:
    """The lines that concern `service`: for a member, those of the process that its router started for it last.

    The router begins each line of a child with the child's port. The process is known by the router's own line, or
    by the name of the model in a line of the child. All lines, where neither is there.
    """
    if service.host is None:
        return lines
    model = re.escape(service.model_path or service.model_id or service.id)
    named = re.compile(
        rf"spawning server instance with name={re.escape(service.id)} on port (\d+)|(?:^|\s)\[(\d+)\] .*{model}"
    )
    ports = [match[1] or match[2] for line in lines if (match := named.search(line))]
    if not ports:
        return lines
    child = re.compile(rf"(?:^|\s)\[{ports[-1]}\] ")
    return [line for line in lines if child.search(line)]
