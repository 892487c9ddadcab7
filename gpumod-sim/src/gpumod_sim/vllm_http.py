"""The HTTP surface of the vLLM stand-in: OpenAI's paths, metrics, and in development mode sleep and RPC."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from gpumod_sim.http11 import Reply, Request, json_reply
from gpumod_sim.texts import MAX_WORDS, embedding, similarity, words
from gpumod_sim.vllm_engine import Engine, EngineError, Generation
from gpumod_sim.vllm_program import VERSION

if TYPE_CHECKING:
    from gpumod_sim.vllm import Vllm

GUARDED = ("/v1", "/v2", "/inference", "/cohere")
Route = Callable[[Request], Awaitable[Reply]]


class RefusedError(Exception):
    """An error in vLLM's envelope."""

    def __init__(self, status: int, message: str, kind: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.param = status, kind or HTTPStatus(status).phrase, param


class VllmHttp:
    def __init__(self, server: Vllm, engine: Engine) -> None:
        self.server, self.engine = server, engine
        self.names = server.flags.values.get("served-model-name") or [server.model]
        told = server.flags.values.get("lora-modules", []) if server.flags.on("enable-lora") else []
        self.adapters = dict(word.split("=", 1) for word in told)
        keys = server.flags.values.get("api-key") or [os.environ.get("VLLM_API_KEY", "")]
        self.keys = {f"Bearer {key}" for key in keys if key}
        self.max_model_len = _length(server.flags.text("max-model-len", "32768"))
        pooling = server.flags.text("runner") == "pooling" or server.flags.text("convert") in ("embed", "classify")
        self.routes: dict[str, tuple[str, Route]] = {
            "/health": ("GET", self._health), "/ping": ("GET POST", self._health), "/metrics": ("GET", self._metrics),
            "/version": ("GET", self._version), "/load": ("GET", self._load), "/v1/models": ("GET", self._models),
        }  # fmt: skip
        if pooling:
            self._add("POST", self._embeddings, "/v1/embeddings", "/pooling")
            self._add("POST", self._rerank, "/rerank", "/v1/rerank", "/v2/rerank")
            self._add("POST", self._score, "/score", "/v1/score")
        else:
            self._add("POST", self._complete, "/v1/completions")
            self._add("POST", self._chat, "/v1/chat/completions")
        if int(os.environ.get("VLLM_SERVER_DEV_MODE", "0") or 0):
            self._add("POST", self._sleep, "/sleep")
            self._add("POST", self._wake, "/wake_up")
            self._add("GET", self._is_sleeping, "/is_sleeping")
            self._add("POST", self._rpc, "/collective_rpc")
            self._add("POST", self._reset, "/reset_prefix_cache")
            self._add("POST", self._reset_other, "/reset_mm_cache", "/reset_encoder_cache")

    def _add(self, methods: str, route: Route, *paths: str) -> None:
        for path in paths:
            self.routes[path] = (methods, route)

    async def handle(self, request: Request) -> Reply:
        guarded = any(request.path == root or request.path.startswith(root + "/") for root in GUARDED)
        if self.keys and guarded and request.headers.get("authorization") not in self.keys:
            return json_reply({"error": "Unauthorized"}, 401)
        try:
            methods, route = self.routes.get(request.path, ("", None))
            if route is None:  # these two are the web framework's own
                return json_reply({"detail": "Not Found"}, 404)
            if request.method not in methods.split():
                return json_reply({"detail": "Method Not Allowed"}, 405)
            return await route(request)
        except RefusedError as error:
            return _error(str(error), error.kind, error.status, error.param)
        except EngineError as error:
            return _error(str(error), "InternalServerError", 500)

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Reply:
        return Reply(200)

    async def _version(self, _request: Request) -> Reply:
        return json_reply({"version": VERSION})

    async def _load(self, _request: Request) -> Reply:
        tracked = self.server.flags.on("enable-server-load-tracking")
        return json_reply({"server_load": len(self.engine.running) + self.engine.waiting if tracked else 0})

    async def _models(self, _request: Request) -> Reply:
        entries: list[dict[str, Any]] = [
            {"id": name, "object": "model", "created": int(self.server.started_at), "owned_by": "vllm",
             "root": self.server.model, "parent": None, "max_model_len": self.max_model_len, "permission": []}
            for name in self.names
        ]  # fmt: skip
        entries += [
            {"id": name, "object": "model", "created": int(self.server.started_at), "owned_by": "vllm",
             "root": path, "parent": self.names[0], "max_model_len": None, "permission": []}
            for name, path in self.adapters.items()
        ]  # fmt: skip
        return json_reply({"object": "list", "data": entries})

    async def _metrics(self, _request: Request) -> Reply:
        if self.server.flags.on("disable-log-stats"):
            return Reply(200, b"", "text/plain; version=0.0.4; charset=utf-8")
        engine = self.engine
        state = {None: "awake", 1: "weights_offloaded", 2: "discard_all"}.get(engine.level, "")
        labels = f'engine="0",model_name="{self.names[0]}"'
        gauges: list[tuple[str, str, float]] = [
            ("num_requests_running", "", len(engine.running)),
            ("num_requests_waiting", "", engine.waiting),
            ("num_requests_waiting_by_reason", 'reason="capacity"', engine.waiting),
            ("num_requests_waiting_by_reason", 'reason="deferred"', 0),
            ("kv_cache_usage_perc", "", 0.01 * len(engine.running)),
            *(("engine_sleep_state", f'sleep_state="{name}"', float(name == state))
              for name in ("awake", "weights_offloaded", "discard_all")),
            *(("sleep_mode_operations_in_flight", f'operation="{name}"', float(name == engine.operation))
              for name in ("sleep", "wake", "release_kv_cache_memory")),
        ]  # fmt: skip
        lines = []
        seen = set()
        for name, extra, value in gauges:
            if name not in seen:
                lines += [f"# HELP vllm:{name} {name}", f"# TYPE vllm:{name} gauge"]
                seen.add(name)
            lines.append(f"vllm:{name}{{{labels}{',' + extra if extra else ''}}} {float(value)}")
        counters = [(name, "", count) for name, count in engine.counters.items()]
        counters += [("request_success", f',finished_reason="{how}"', count) for how, count in engine.finished.items()]
        for name, extra, count in counters:
            if name not in seen:
                lines += [f"# HELP vllm:{name}_total {name}", f"# TYPE vllm:{name}_total counter"]
                seen.add(name)
            lines.append(f"vllm:{name}_total{{{labels}{extra}}} {float(count)}")
        return Reply(200, ("\n".join(lines) + "\n").encode(), "text/plain; version=0.0.4; charset=utf-8")

    # --- working ----------------------------------------------------------------------------------------------------

    def _body(self, request: Request) -> dict[str, Any]:
        if not request.headers.get("content-type", "").startswith("application/json"):
            raise RefusedError(400, "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed")
        try:
            body = request.json()
        except ValueError as error:
            raise RefusedError(400, f"JSON decode error: {error}") from error
        if not isinstance(body, dict):
            raise RefusedError(400, "Input should be a valid dictionary")
        model = body.get("model")
        if model is not None and model not in (*self.names, *self.adapters):
            raise RefusedError(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
        return body

    async def _run(self, body: dict[str, Any], prompt: str) -> tuple[Generation, str, dict[str, int]]:
        wanted = body.get("max_tokens", body.get("max_completion_tokens", 16))
        if not isinstance(wanted, int) or wanted < 1:
            raise RefusedError(400, f"max_tokens must be at least 1, got {wanted}.", "BadRequestError", "max_tokens")
        count = len(prompt.split())
        generation = await self.engine.generate(count, wanted)
        usage = {"prompt_tokens": count, "completion_tokens": generation.done, "total_tokens": count + generation.done}
        if self.engine.weights_lost:
            return generation, "!" * max(4, min(generation.done, MAX_WORDS)), usage
        return generation, words(generation.done), usage

    async def _complete(self, request: Request) -> Reply:
        body = self._body(request)
        if "prompt" not in body:
            raise RefusedError(400, "Either prompt or prompt_embeds must be provided.", "BadRequestError", "prompt")
        generation, text, usage = await self._run(body, str(body["prompt"]))
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": _finish(generation)}
        return self._completion(body, "text_completion", "cmpl", choice, usage)

    async def _chat(self, request: Request) -> Reply:
        body = self._body(request)
        if not isinstance(body.get("messages"), list):
            raise RefusedError(400, "messages: Field required")
        generation, text, usage = await self._run(body, str(body["messages"]))
        part = {"role": "assistant", "content": text}
        choice = {"index": 0, "delta" if body.get("stream") else "message": part, "finish_reason": _finish(generation)}
        kind = "chat.completion.chunk" if body.get("stream") else "chat.completion"
        return self._completion(body, kind, "chatcmpl", choice, usage)

    def _completion(self, body: dict[str, Any], kind: str, prefix: str, choice: Any, usage: Any) -> Reply:
        now = int(time.time())
        value = {"id": f"{prefix}-{now}", "object": kind, "created": now, "model": self.names[0], "choices": [choice],
                 "usage": usage}  # fmt: skip
        reply = json_reply(value)
        if body.get("stream"):
            return Reply(200, b"data: " + reply.body + b"\n\ndata: [DONE]\n\n", "text/event-stream; charset=utf-8")
        return reply

    async def _embeddings(self, request: Request) -> Reply:
        body = self._body(request)
        inputs = body.get("input")
        if not isinstance(inputs, str | list) or not inputs:
            raise RefusedError(400, "input: Field required")
        texts = [inputs] if isinstance(inputs, str) else [str(text) for text in inputs]
        await self.engine.generate(sum(len(text.split()) for text in texts), 1)
        data = [{"index": n, "object": "embedding", "embedding": embedding(text)} for n, text in enumerate(texts)]
        return json_reply(
            {"object": "list", "data": data, "model": self.names[0], "usage": {"prompt_tokens": len(texts)}}
        )

    async def _rerank(self, request: Request) -> Reply:
        body = self._body(request)
        documents = body.get("documents")
        if not isinstance(documents, list) or "query" not in body:
            raise RefusedError(400, "query, documents: Field required")
        await self.engine.generate(len(documents), 1)
        scored = [(similarity(str(body["query"]), str(text)), number) for number, text in enumerate(documents)]
        results = [
            {"index": number, "document": {"text": documents[number]}, "relevance_score": score}
            for score, number in sorted(scored, reverse=True)[: body.get("top_n") or len(documents)]
        ]
        return json_reply({"id": "rerank-0", "model": self.names[0], "results": results})

    async def _score(self, request: Request) -> Reply:
        body = self._body(request)
        if "text_1" not in body or "text_2" not in body:
            raise RefusedError(400, "text_1, text_2: Field required")
        others = body["text_2"] if isinstance(body["text_2"], list) else [body["text_2"]]
        await self.engine.generate(len(others), 1)
        data = [
            {"index": number, "object": "score", "score": similarity(str(body["text_1"]), str(text))}
            for number, text in enumerate(others)
        ]
        return json_reply({"id": "score-0", "object": "list", "model": self.names[0], "data": data})

    # --- development mode -------------------------------------------------------------------------------------------

    async def _sleep(self, request: Request) -> Reply:
        level, mode = request.first("level", "1") or "", request.first("mode", "abort") or ""
        if level not in ("0", "1", "2"):
            raise RefusedError(400, "level: Input should be 0, 1 or 2")
        if mode not in ("abort", "wait", "keep"):
            raise RefusedError(400, "mode: Input should be 'abort', 'wait' or 'keep'")
        if self.server.fault("sleep-500") is not None:
            raise EngineError("simulated fault: sleep-500")
        if self.server.fault("sleep-hangs") is not None:
            await asyncio.Event().wait()
        await asyncio.shield(asyncio.ensure_future(self.engine.sleep(int(level), mode)))
        return json_reply({"status": "sleeping", "level": int(level)})

    async def _wake(self, request: Request) -> Reply:
        tags = [value for key, value in request.query if key == "tags"] or None
        await asyncio.shield(asyncio.ensure_future(self.engine.wake(tags)))
        return json_reply({"status": "sleeping" if self.engine.is_sleeping else "awake", "tags": tags})

    async def _is_sleeping(self, _request: Request) -> Reply:
        return json_reply({"is_sleeping": self.engine.is_sleeping})

    async def _rpc(self, request: Request) -> Reply:
        try:
            body = request.json()
        except ValueError as error:
            raise RefusedError(400, f"JSON decode error: {error}") from error
        if not isinstance(body, dict) or not isinstance(body.get("method"), str):
            raise RefusedError(400, "Missing 'method' in request body")
        if body["method"] != "reload_weights":
            raise EngineError(f"Method {body['method']!r} is not implemented.")
        await asyncio.shield(asyncio.ensure_future(self.engine.reload_weights()))
        return json_reply({"results": [None] * max(1, len(self.server.gpus))})

    async def _reset(self, _request: Request) -> Reply:
        return json_reply({"success": not self.engine.running})

    async def _reset_other(self, _request: Request) -> Reply:
        return Reply(200)


def _error(message: str, kind: str, status: int, param: str | None = None) -> Reply:
    return json_reply({"error": {"message": message, "type": kind, "param": param, "code": status}}, status)


def _finish(generation: Generation) -> str:
    return "abort" if generation.aborted.is_set() else "length"


def _length(text: str) -> int:
    """`--max-model-len`: a number, `1k` (1000) or `1K` (1024)."""
    factor = {"k": 1000, "K": 1024}.get(text[-1:], 1)
    try:
        return int(float(text[:-1] if factor > 1 else text) * factor)
    except ValueError:
        return 32768
