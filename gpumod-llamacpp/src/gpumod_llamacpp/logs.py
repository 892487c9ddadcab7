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


SPAWNED = re.compile(r"spawning server instance with name=(\S+) on port (\d+)")
TRIED_AGAIN = "retrying without pipeline parallelism"


def telling_lines(service: Service, lines: Sequence[str]) -> Sequence[str]:
    """The lines that may tell why `service` will never be ready: its own, after its last second try.

    llama.cpp that finds no memory for its compute buffers says so as if it were the end, and goes on with fewer.
    """
    mine = own_lines(service, lines)
    again = max((number for number, line in enumerate(mine) if TRIED_AGAIN in line), default=-1)
    return mine[again + 1 :]


def own_lines(service: Service, lines: Sequence[str]) -> Sequence[str]:
    """The lines that concern `service`: for a member, those of the process that its router started for it last.

    The router begins each line of a child with the child's port, and says for whom it starts a child on which port.
    Where it does not say so of this member, the child is known by the name of the model in one of its lines. All
    lines, where neither is there.
    """
    if service.host is None:
        return lines
    mine: list[str] = []
    port, spawned = None, False
    for line in lines:
        if match := SPAWNED.search(line):
            if match[1] == service.id:
                port, mine, spawned = match[2], [], True
            elif match[2] == port:
                port = None  # its child is gone, and another has the port
        elif port is not None and _port_of(line) == port:
            mine.append(line)
    if spawned:
        return mine
    model = re.escape(service.model_path or service.model_id or service.id)
    named = re.compile(rf"(?<![\w./:-]){model}(?![\w/-]|[.:]\w)")  # whole: neither of another folder nor a longer one
    ports = [port for line in lines if (port := _port_of(line)) and named.search(line)]
    return [line for line in lines if _port_of(line) == ports[-1]] if ports else lines


def _port_of(line: str) -> str | None:
    """The port of the child that wrote `line`, where a child did."""
    match = re.search(r"(?:^|\s)\[(\d+)\] ", line)
    return match[1] if match else None
