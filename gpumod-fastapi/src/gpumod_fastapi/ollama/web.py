"""Speaks to an Ollama about its models. Nothing here ever pulls one, and only `load` loads one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gpumod.api import Clock, Failed, Http, HttpFailure, HttpReply, Service, poll
from gpumod_fastapi.ollama.options import model_of, ollama_options

MIB = 1024 * 1024
ASK_S = 2.0
FOREVER = -1
_FROM = re.compile(r"^FROM (/\S.*?)\s*$", re.MULTILINE)

Entry = Mapping[str, Any]


async def models(port: int, path: str, http: Http) -> dict[str, Entry]:
    """The models that `path` (/api/tags: all; /api/ps: loaded) lists, by name, but for those that run elsewhere.

    Raises HttpFailure, and Failed `ollama-error`.
    """
    reply = await http.request("GET", port, path, timeout_s=ASK_S)
    listed = reply.json_body.get("models") if isinstance(reply.json_body, dict) else None
    if not reply.ok or not isinstance(listed, list):
        raise Failed("ollama-error", f"the Ollama on port {port} does not list its models", why=said(reply))
    return {
        entry["name"]: entry
        for entry in listed
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and not entry.get("remote_host")
    }


async def weights_of(name: str, port: int, http: Http) -> str | None:
    """The file with the model's weights, as its runner is given it; None where that is not told. Raises HttpFailure."""
    reply = await http.request("POST", port, "/api/show", json_body={"model": name}, timeout_s=ASK_S)
    text = reply.json_body.get("modelfile") if reply.ok and isinstance(reply.json_body, dict) else None
    found = _FROM.search(text) if isinstance(text, str) else None
    return found[1] if found else None


async def load(member: Service, port: int, http: Http, clock: Clock) -> None:
    """Load a model, to stay loaded. Raises Failed `unknown-member`, `load-failed` or `load-timeout`."""
    name, give_up_s = model_of(member), clock.monotonic() + member.startup_timeout
    if name not in await _listed(member, port, "/api/tags", http, "load"):
        # asked for a model that it does not have, Ollama answers 404: but one that runs elsewhere it would "load"
        raise Failed(
            "unknown-member",
            f"{member.host} has no model {name}",
            why="its list of models on this machine does not name it",
            hint=f"`ollama list` shows them; gpumod pulls none: OLLAMA_HOST=127.0.0.1:{port} ollama pull {name}",
            service=member.id,
        )
    reply = await _ask_to_load(member, name, port, http)
    if not reply.ok:
        raise _failed(member, "load-failed", "loaded", said(reply))

    async def there() -> bool | None:
        return name in await _listed(member, port, "/api/ps", http, "load") or None

    if not await poll(clock, there, max(1.0, give_up_s - clock.monotonic())):
        raise _failed(member, "load-timeout", "loaded", "it says that it loaded it, and does not list it as loaded")


async def _ask_to_load(member: Service, name: str, port: int, http: Http) -> HttpReply:
    """An empty prompt loads a model. One that embeds alone is refused there (400), and loaded by an empty input."""

    async def ask(path: str, **empty: Any) -> HttpReply:
        body = {"model": name, "keep_alive": FOREVER, **empty}
        try:
            return await http.request("POST", port, path, json_body=body, timeout_s=member.startup_timeout)
        except HttpFailure as failure:
            code = "load-timeout" if failure.kind == "timeout" else "load-failed"
            raise _failed(member, code, "loaded", str(failure)) from failure

    reply = await ask("/api/generate", stream=False)
    if reply.status != 400:
        return reply
    embedded = await ask("/api/embed", input="")
    return embedded if embedded.ok else reply


async def unload(member: Service, port: int, http: Http, clock: Clock) -> None:
    """Unload a model once its requests have ended, which Ollama waits for itself; one that is not loaded is.

    Raises Failed `unload-failed`, and `unload-timeout` where it may still come about.
    """
    name = model_of(member)
    if name not in await _listed(member, port, "/api/ps", http, "unload"):
        return
    body = {"model": name, "keep_alive": 0, "stream": False}
    timeout_s = ollama_options(member).unload_timeout_s
    try:
        reply = await http.request("POST", port, "/api/generate", json_body=body, timeout_s=timeout_s)
    except HttpFailure as failure:
        code = "unload-timeout" if failure.kind == "timeout" else "unload-failed"
        raise _failed(member, code, "unloaded", str(failure)) from failure
    if not reply.ok and reply.status != 404:
        raise _failed(member, "unload-failed", "unloaded", said(reply))

    async def gone() -> bool | None:
        return name not in await _listed(member, port, "/api/ps", http, "unload") or None

    if not await poll(clock, gone, timeout_s):
        why = f"it was still loaded after {timeout_s:g} s; requests in flight keep it, and so does whoever asks for it"
        raise _failed(member, "unload-timeout", "unloaded", why)


def said(reply: HttpReply) -> str:
    error = reply.json_body.get("error") if isinstance(reply.json_body, dict) else None
    return f"it answered {reply.status}: {str(error or reply.text)[:300]}"


def on_gpu(entry: Entry) -> str:
    """What is to be said of a loaded model, part of which may be in the computer's own memory; "" where nothing is."""
    size, on_it = entry.get("size"), entry.get("size_vram")
    if not isinstance(size, int) or not isinstance(on_it, int) or on_it >= size:
        return ""
    return f"only {on_it // MIB} of {size // MIB} MiB are on the GPU"


async def _listed(member: Service, port: int, path: str, http: Http, verb: str) -> dict[str, Entry]:
    try:
        return await models(port, path, http)
    except HttpFailure as failure:
        code = f"{verb}-timeout" if failure.kind == "timeout" else f"{verb}-failed"
        raise _failed(member, code, f"{verb}ed", f"{member.host} does not answer: {failure}") from failure


def _failed(member: Service, code: str, done: str, why: str) -> Failed:
    hint = f"see `gpumod service logs {member.host}`"
    return Failed(code, f"{member.id} could not be {done}", why=why, hint=hint, service=member.id)
