"""A service of one's own that takes CUDA memory before it is healthy: --port P [--mb MIB] [--cpu]."""

from __future__ import annotations

import argparse
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from cuda import Cuda

CONTEXT_MB = 300
"""About what a CUDA context takes by itself."""


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mb", type=int, default=int(os.environ.get("GPUMOD_VRAM_MB", "500")))
    parser.add_argument("--cpu", action="store_true", help="take nothing, as a program that found no GPU")
    options = parser.parse_args()
    if not options.cpu:
        cuda = Cuda()
        cuda.take(max(1, options.mb - CONTEXT_MB))
    HTTPServer(("127.0.0.1", options.port), Healthy).serve_forever()


if __name__ == "__main__":
    main()
