"""The HTTP surface of one llama.cpp model."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from gpumod_sim import law
from gpumod_sim.http11 import Reply, Request, json_reply
from gpumod_sim.llama_flags import MODEL_CONTEXT
from gpumod_sim.texts import embedding, similarity, words

if TYPE_CHECKING:
    from gpumod_sim.llama import Llama

Route = Callable[[Request], Awaitable[Reply]]
TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 500: "server_error",
         501: "not_supported_error", 503: "unavailable_error"}  # fmt: skip


def error_reply(status: int, message: str) -> Reply:
    """llama.cpp's error envelope."""
    return json_reply({"error": {"code": status, "message": message, "type": TYPES[status]}}, status)


def keys_of(text: str, path: str) -> set[str]:
    """The API keys of `--api-key a,b` and of the file of `--api-key-file`."""
    lines = text.split(",")
    if path:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - a stand-in starts often: pathlib costs start-up time
            lines += file.read().splitlines()
    return {line.strip() for line in lines if line.strip()}


def is_allowed(request: Request, keys: set[str]) -> bool:
    if not keys or request.path in ("/health", "/v1/health"):
        return True
    given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
    return given in keys


class LlamaHttp:
    def __init__(self, server: Llama) -> None:
        self.server = server
        flags = server.flags
        self.name = flags.text("alias").split(",")[0] or os.path.basename(server.model)  # noqa: PTH119 - a stand-in starts often: pathlib costs start-up time
        self.keys = keys_of(flags.text("api-key"), flags.text("api-key-file"))
        self.in_flight = 0
        self.deferred = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self.counts = {"prompt_tokens_total": 0, "tokens_predicted_total": 0}
        parallel = flags.whole("parallel", -1)
        self.slots = asyncio.Semaphore(parallel if parallel > 0 else 4)
        self.n_slots = parallel if parallel > 0 else 4
        self.n_ctx = server.n_ctx
        complete, chat, embed = self._work(self._complete), self._work(self._chat), self._work(self._embeddings)
        rerank, tokens = self._work(self._rerank), self._work(self._tokenize)
        self.gets: dict[str, Route] = {
            "/v1/models": self._models, "/models": self._models, "/props": self._props, "/slots": self._slots,
            "/metrics": self._metrics,
        }  # fmt: skip
        self.posts: dict[str, Route] = {
            "/completion": complete, "/completions": complete, "/v1/completions": complete,
            "/chat/completions": chat, "/v1/chat/completions": chat, "/embeddings": embed, "/v1/embeddings": embed,
            "/embedding": embed, "/rerank": rerank, "/reranking": rerank, "/v1/rerank": rerank,
            "/v1/reranking": rerank, "/tokenize": tokens,
        }  # fmt: skip

    async def handle(self, request: Request) -> Reply:
        if not is_allowed(request, self.keys):
            return error_reply(401, "Invalid API Key")
        if not self.server.ready:
            return error_reply(503, "Loading model")
        if request.path in ("/health", "/v1/health"):
            return json_reply({"status": "ok"})
        route = {"GET": self.gets, "POST": self.posts}.get(request.method, {}).get(request.path)
        return await route(request) if route else error_reply(404, "File Not Found")

    # --- reading ----------------------------------------------------------------------------------------------------

    def meta(self) -> dict[str, Any]:
        size = sum(self.server.full_mb.values()) * 1024 * 1024
        return {"vocab_type": 2, "n_vocab": 151936, "n_ctx": self.n_ctx, "n_ctx_train": MODEL_CONTEXT, "n_embd": 1024,
                "n_params": size, "size": size, "ftype": "Q8_0"}  # fmt: skip

    async def _models(self, _request: Request) -> Reply:
        entry = {"id": self.name, "aliases": [self.name], "tags": [], "object": "model", "owned_by": "llamacpp",
                 "created": int(self.server.started_at), "meta": self.meta()}  # fmt: skip
        return json_reply({"object": "list", "data": [entry], "models": [{"name": self.name, "model": self.name}]})

    async def _props(self, _request: Request) -> Reply:
        return json_reply({
            "default_generation_settings": {"n_ctx": self.n_ctx // self.n_slots}, "total_slots": self.n_slots,
            "model_alias": self.name, "model_path": self.server.model, "build_info": "b11434-sim",
            "is_sleeping": self.server.asleep, "endpoint_slots": True, "endpoint_props": False,
            "endpoint_metrics": self.server.flags.on("metrics"),
        })  # fmt: skip

    async def _slots(self, _request: Request) -> Reply:
        """As in llama.cpp, asking for the slots wakes a model that was dropped."""
        if "slots" in self.server.flags and not self.server.flags.on("slots"):
            return error_reply(501, "This server does not support slots endpoint.")
        await self.server.be_awake()
        self.server.last_use = time.monotonic()
        busy = min(self.in_flight, self.n_slots)
        slots = [
            {"id": number, "n_ctx": self.n_ctx // self.n_slots, "speculative": False, "is_processing": number < busy}
            for number in range(self.n_slots)
        ]
        return json_reply(slots)

    async def _metrics(self, _request: Request) -> Reply:
        if not self.server.flags.on("metrics"):
            return error_reply(501, "This server does not support metrics endpoint. Start it with `--metrics`")
        values = {
            **self.counts,
            "requests_processing": self.in_flight - self.deferred,
            "requests_deferred": self.deferred,
        }
        lines = []
        for name, value in values.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# HELP llamacpp:{name} {name}", f"# TYPE llamacpp:{name} {kind}", f"llamacpp:{name} {value}"]
        return Reply(200, ("\n".join(lines) + "\n").encode(), "text/plain; version=0.0.4")

    # --- working ----------------------------------------------------------------------------------------------------

    def _work(self, answer: Callable[[dict[str, Any]], Awaitable[Reply]]) -> Route:
        """A route that takes a slot, wakes the model and counts as use."""

        async def route(request: Request) -> Reply:
            try:
                body = request.json()
            except ValueError as error:
                return error_reply(500, f"[json.exception.parse_error.101] parse error: {error}")
            if not isinstance(body, dict):
                return error_reply(400, "the body must be an object")
            self.in_flight += 1
            self.idle.clear()
            self.deferred += 1
            waiting = True
            try:
                async with self.slots:
                    self.deferred, waiting = self.deferred - 1, False
                    await self.server.be_awake()
                    return await answer(body)
            finally:
                self.in_flight -= 1
                self.deferred -= waiting
                if not self.in_flight:
                    self.idle.set()
                self.server.last_use = time.monotonic()

        return route

    async def _predict(self, body: dict[str, Any], prompt: str) -> tuple[str, int, int]:
        wanted = body.get("max_tokens", body.get("n_predict", 16))
        count = max(1, wanted) if isinstance(wanted, int) else 16
        await asyncio.sleep(count * law.TOKEN_S / self.server.machine.speed())
        asked = len(prompt.split())
        self.counts["prompt_tokens_total"] += asked
        self.counts["tokens_predicted_total"] += count
        return words(count), asked, count

    async def _complete(self, body: dict[str, Any]) -> Reply:
        if "prompt" not in body:
            return error_reply(400, '"prompt" is missing')
        text, asked, count = await self._predict(body, str(body["prompt"]))
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}
        return self._completion(body, "text_completion", choice, asked, count, content=text)

    async def _chat(self, body: dict[str, Any]) -> Reply:
        if not isinstance(body.get("messages"), list):
            return error_reply(400, "'messages' is required")
        text, asked, count = await self._predict(body, str(body["messages"]))
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "delta" if body.get("stream") else "message": message, "finish_reason": "length"}
        kind = "chat.completion.chunk" if body.get("stream") else "chat.completion"
        return self._completion(body, kind, choice, asked, count)

    def _completion(
        self, body: dict[str, Any], kind: str, choice: dict[str, Any], asked: int, count: int, **more: str
    ) -> Reply:
        usage = {"prompt_tokens": asked, "completion_tokens": count, "total_tokens": asked + count}
        now = int(time.time())
        value = {"id": f"chatcmpl-{now}", "object": kind, "created": now, "model": self.name, "choices": [choice],
                 "usage": usage, **more}  # fmt: skip
        reply = json_reply(value)
        if body.get("stream"):
            return Reply(200, b"data: " + reply.body + b"\n\ndata: [DONE]\n\n", "text/event-stream")
        return reply

    async def _embeddings(self, body: dict[str, Any]) -> Reply:
        if not self.server.flags.on("embeddings"):
            return error_reply(501, "This server does not support embeddings. Start it with `--embeddings`")
        inputs = body.get("input", body.get("content"))
        if not isinstance(inputs, str | list) or not inputs:
            return error_reply(400, '"input" or "content" must be provided')
        texts = [inputs] if isinstance(inputs, str) else [str(text) for text in inputs]
        self._count(*texts)
        data = [{"object": "embedding", "index": n, "embedding": embedding(text)} for n, text in enumerate(texts)]
        return json_reply({"object": "list", "model": self.name, "data": data, "usage": {"prompt_tokens": len(texts)}})

    async def _rerank(self, body: dict[str, Any]) -> Reply:
        if not self.server.flags.on("reranking"):
            return error_reply(501, "This server does not support reranking. Start it with `--reranking`")
        documents = body.get("documents")
        if not isinstance(documents, list) or not documents or not isinstance(body.get("query"), str):
            return error_reply(400, '"query" and "documents" must be provided')
        self._count(body["query"], *map(str, documents))
        scored = [(similarity(body["query"], str(text)), number) for number, text in enumerate(documents)]
        results = [{"index": number, "relevance_score": score} for score, number in sorted(scored, reverse=True)]
        return json_reply({"model": self.name, "object": "list", "results": results[: body.get("top_n")]})

    def _count(self, *prompts: str) -> None:
        self.counts["prompt_tokens_total"] += sum(len(prompt.split()) for prompt in prompts)

    async def _tokenize(self, body: dict[str, Any]) -> Reply:
        return json_reply({"tokens": [len(word) for word in str(body.get("content", "")).split()]})
