"""The last words of a vLLM that cannot start: its engine's traceback, in the log and again, then its API server's."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence

_ENGINE = [("v1/engine/core.py", "__init__"), ("v1/executor/uniproc_executor.py", "_init_executor")] * 3
_SERVER = [("entrypoints/openai/api_server.py", "run_server"), ("v1/engine/async_llm.py", "from_vllm_config")] * 10


def last_words(*reasons: str) -> Iterator[str]:
    """The lines of its log; each process names itself at each of its lines."""
    engine, server = (f"({name} pid={os.getpid()})" for name in ("EngineCore_DP0", "APIServer"))
    logged = f"{engine} ERROR {time.strftime('%m-%d %H:%M:%S')} [core.py:946]"
    yield f"{logged} EngineCore failed to start."
    yield from _traceback(logged, _ENGINE, reasons)
    yield f"{engine} Process EngineCore_DP0:"
    yield from _traceback(engine, _ENGINE, reasons)
    core = json.dumps({"EngineCore_DP0": 1})
    end = f"RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {core}"
    yield from _traceback(server, _SERVER, [end])


def _traceback(prefix: str, frames: Sequence[tuple[str, str]], reasons: Sequence[str]) -> Iterator[str]:
    yield f"{prefix} Traceback (most recent call last):"
    for number, (file, name) in enumerate(frames, 1):
        yield f'{prefix}   File "/opt/vllm/lib/python3.12/site-packages/vllm/{file}", line {97 * number}, in {name}'
        yield f"{prefix}     self._call_{number}(vllm_config)"
        yield f"{prefix}     {'^' * 26}"
    for reason in reasons:
        yield f"{prefix} {reason}"
