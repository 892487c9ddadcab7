"""A registry of images on this machine's loopback, as small as one can be: what an engine asks for at a pull."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Registry:
    """Serves images made of one layer each, `slow_s` seconds apart in pieces; what it has not is answered 404."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, bytes] = {}
        self.slow_s = 0.0
        self.broken = False
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            do_HEAD = do_GET  # noqa: N815  # as the standard library calls it

            def log_message(self, *args: Any) -> None:
                """Tests read `asked`."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def add(self, image: str, tree: bytes, **config: Any) -> None:
        """An image of the files in `tree` (a tar)."""
        layer = gzip.compress(tree, 1)
        about = {"architecture": "amd64", "os": "linux", "config": config,
                 "rootfs": {"type": "layers", "diff_ids": [digest(tree)]}}  # fmt: skip
        text = json.dumps(about).encode()
        self.blobs |= {digest(layer): layer, digest(text): text}
        kinds = {"config": "application/vnd.docker.container.image.v1+json",
                 "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip"}  # fmt: skip
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": kinds["config"], "size": len(text), "digest": digest(text)},
            "layers": [{"mediaType": kinds["layer"], "size": len(layer), "digest": digest(layer)}],
        }
        body = json.dumps(manifest).encode()
        self.manifests |= {f"/v2/{image}/manifests/latest": body, f"/v2/{image}/manifests/{digest(body)}": body}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        self.asked.append(path)
        body = b"{}" if path == "/v2/" else self.manifests.get(path) or self.blobs.get(path.rpartition("/")[2])
        kind = MANIFEST if "/manifests/" in path else "application/octet-stream"
        is_layer = "/blobs/" in path and body is not None and len(body) > 100_000
        request.send_response(200 if body is not None else 404)
        body = body if body is not None else b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if "/manifests/" in path:
            request.send_header("Docker-Content-Digest", digest(body))
        request.end_headers()
        if request.command == "HEAD":
            return
        if not is_layer:
            request.wfile.write(body)
            return
        sent = bytes(len(body)) if self.broken else body  # of the right length, and not what its digest says
        for start in range(0, len(sent), len(sent) // 10 + 1):
            time.sleep(self.slow_s)
            request.wfile.write(sent[start : start + len(sent) // 10 + 1])


@contextmanager
def running() -> Iterator[Registry]:
    registry = Registry()
    thread = threading.Thread(target=registry.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()
