"""Things that are not gpumod's: stand-ins that are started by hand, an ollama, a llama-swap configuration."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gpumod_sim.ollama_models import add_model

SIX_MODELS = """
healthCheckTimeout: 60
startPort: {port}
macros:
  server: >
    {bin}/llama-server --port ${{PORT}}
  length: 4096
models:
  "small":
    name: Small
    cmd: |
      # a comment
      ${{server}} -m {models}/small.gguf \\
      --ctx-size ${{length}} -ngl 99
    ttl: 300
    aliases: [gpt-4o-mini]
  "org/big:30b":
    macros: {{length: 8192}}
    cmd: ${{server}} -m {models}/big.gguf -c ${{length}} --n-cpu-moe 4
    env: ["CUDA_VISIBLE_DEVICES=0", "GGML_CUDA_NO_PINNED=1", "LD_LIBRARY_PATH=/x"]
  "writer":
    cmd: {bin}/vllm serve acme/writer --port ${{PORT}} --gpu-memory-utilization 0.25 --max-model-len ${{length}}
  "voice":
    cmd: {bin}/uvicorn app:app --port {voice}
    proxy: http://127.0.0.1:{voice}
    checkEndpoint: /ready
  "boxed":
    cmd: docker run --rm -p ${{PORT}}:8080 image --model /x
    cmdStop: docker stop boxed
  "far":
    cmd: ssh far llama-server --port 1
    proxy: http://far.example.com:1
groups:
  both: {{swap: false, members: [small, writer]}}
"""


def write_models(folder: Path) -> Path:
    """A folder of Ollama's models: one of 4500 MiB, and one that runs elsewhere."""
    models = folder / "ollama-models"
    add_model(str(models), "llama3:8b", 4500)
    add_model(str(models), "big:cloud", 9, remote_host="https://example.invalid")
    return models


def load_model(port: int) -> None:
    """Have the Ollama at `port` load its model, which then takes 5000 MiB."""
    body = json.dumps({"model": "llama3:8b", "keep_alive": -1}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/generate", body, timeout=30) as reply:
        assert reply.status == 200


PROXY = """
import asyncio, contextlib, sys

async def pump(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

async def serve(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
    far_writer.close()
    writer.close()

async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()

asyncio.run(main())
"""


def write_proxy(folder: Path) -> Path:
    """A program called docker-proxy: `docker-proxy PORT TO` passes on what comes at PORT."""
    program = folder / "docker-proxy"
    program.write_text(f"#!{sys.executable}\n{PROXY}")
    program.chmod(0o755)
    return program


def write_swap(folder: Path, **places: Any) -> Path:
    """A llama-swap configuration of six models, and two files of models."""
    models = folder / "models"
    models.mkdir()
    (models / "small.gguf").write_bytes(b"0" * 3_000_000)
    (models / "big.gguf").write_bytes(b"0" * 5_000_000)
    path = folder / "config.yaml"
    path.write_text(SIX_MODELS.format(models=models, **places))
    return path


@contextmanager
def started(*argv: str, ready: str, until: Callable[..., Any], **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that nobody keeps, once it answers at `ready`. It is killed in the end, and what it started."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GPUMOD_")}
    with subprocess.Popen(
        argv, env={**clean, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            until(lambda: process.poll() is not None or answers(ready), f"{argv[0]} to answer")
            assert process.poll() is None, "it ended"
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False
