"""As much of ollama as gpumod sees: run as `ollama serve`, it answers at OLLAMA_HOST and holds GPU memory.

The folder of the simulated machine is in OLLAMA_TEST_MACHINE; it holds 5000 MiB of its first card.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gpumod_sim.ledger import Ledger
from gpumod_sim.machine import Machine

MIB = 1024 * 1024
MODELS: list[dict[str, Any]] = [
    {"name": "llama3:8b", "model": "llama3:8b", "size": 4661 * MIB},
    {"name": "big:cloud", "model": "big:cloud", "size": 9 * MIB, "remote_host": "https://example.invalid"},
]
LOADED = [{**MODELS[0], "size_vram": 5000 * MIB, "context_length": 4096}]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        answers = {
            "/api/tags": {"models": MODELS},
            "/api/ps": {"models": LOADED},
            "/api/version": {"version": "0.12.3"},
        }
        if self.path == "/":
            self._send(200, b"Ollama is running", "text/plain; charset=utf-8")
        elif self.path in answers:
            self._send(200, json.dumps(answers[self.path]).encode(), "application/json; charset=utf-8")
        else:
            self._send(404, b"404 page not found", "text/plain")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Nothing."""


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        print("ollama version is 0.12.3")
        return
    assert sys.argv[1:] == ["serve"]
    ledger = Ledger(Machine(os.environ["OLLAMA_TEST_MACHINE"]))
    ledger.hold("ollama", {0: 5000})

    def leave(_number: int, _frame: object) -> None:
        ledger.leave(os.getpid())
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


main()
