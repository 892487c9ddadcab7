"""A service of one's own that takes CUDA memory before it is healthy, with torch or with CUDA's driver library.

It serves with FastAPI where that can be imported. Its health answer tells on what it runs and whether it sleeps:
POST /sleep gives its memory back, POST /wake takes it again.
"""

from __future__ import annotations

import argparse
import json
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from cuda import Cuda


class WithDriver:
    """Memory through CUDA's driver library; on the CPU where there is no GPU to be seen."""

    def __init__(self) -> None:
        try:
            self._cuda: Cuda | None = Cuda()
        except OSError:
            self._cuda = None
        self.device = "cuda" if self._cuda else "cpu"

    def take(self, mb: int) -> None:
        if self._cuda:
            self._cuda.take(mb)

    def give_back(self) -> None:
        if self._cuda:
            self._cuda.give_back()


class WithTorch:
    """A tensor of torch; on the CPU where torch sees no GPU, as most programs do it."""

    def __init__(self) -> None:
        import torch

        self._torch: Any = torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self._held: Any = None

    def take(self, mb: int) -> None:
        mb = mb if self.device == "cuda" else 1
        self._held = self._torch.ones(mb, 1024, 1024, dtype=self._torch.uint8, device=self.device)
        if self.device == "cuda":
            self._torch.cuda.synchronize()

    def give_back(self) -> None:
        self._held = None
        if self.device == "cuda":
            self._torch.cuda.empty_cache()


class App:
    """What it answers, whoever serves it."""

    def __init__(self, memory: WithDriver | WithTorch, mb: int) -> None:
        self._memory, self._mb, self._sleeping = memory, mb, False
        memory.take(mb)

    def answer(self, method: str, path: str) -> dict[str, object] | None:
        """None: there is no such thing."""
        if (method, path) == ("POST", "/sleep"):
            self._memory.give_back()
            self._sleeping = True
        elif (method, path) == ("POST", "/wake"):
            self._memory.take(self._mb)
            self._sleeping = False
        elif (method, path) != ("GET", "/health"):
            return None
        return {"device": self._memory.device, "sleeping": self._sleeping}


def serve_with_fastapi(app: App, port: int) -> None:
    """Raises ImportError."""
    import fastapi
    import uvicorn

    api = fastapi.FastAPI()
    for method, path in (("GET", "/health"), ("POST", "/sleep"), ("POST", "/wake")):
        api.add_api_route(path, lambda m=method, p=path: app.answer(m, p), methods=[method])
    uvicorn.run(api, host="127.0.0.1", port=port, log_level="warning")


def serve_plainly(app: App, port: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = app.answer(self.command, self.path)
            body = json.dumps(told).encode()
            self.send_response(404 if told is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mb", type=int, required=True, help="MiB to hold, beside the context of CUDA")
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--gate", type=Path, help="healthy only when this file is there")
    parser.add_argument("--of", help="whose it is: the test finds what it has left by this")
    options = parser.parse_args()
    app = App(WithTorch() if options.torch else WithDriver(), options.mb)
    while options.gate and not options.gate.exists():
        time.sleep(0.02)
    try:
        serve_with_fastapi(app, options.port)
    except ImportError:
        serve_plainly(app, options.port)


if __name__ == "__main__":
    main()
