"""One small request after waking from level 2: a model without its weights answers, but with garbage."""

from __future__ import annotations

import math
from typing import Any

from gpumod.api import Failed, Http, HttpFailure, Service
from gpumod_vllm.options import served_name, vllm_options

NOT_SERVED = frozenset({400, 404, 405, 501})
TOKENS = 4


async def canary(service: Service, port: int, http: Http, *, timeout_s: float) -> None:
    """Ask the first endpoint that this model serves. Raises Failed `wake-garbage` unless the answer makes sense."""
    for path, body in questions(service):
        try:
            reply = await http.request("POST", port, path, json_body=body, timeout_s=timeout_s)
        except HttpFailure as failure:
            raise _garbage(service, f"{path}: {failure}") from failure
        if reply.status in NOT_SERVED:
            continue
        if not reply.ok:
            raise _garbage(service, f"{path} answered {reply.status}: {reply.text[:200]}")
        if not makes_sense(reply.json_body):
            raise _garbage(service, f"{path} answered {reply.text[:200]}")
        return
    raise _garbage(service, "it serves neither completions, embeddings nor ranking, so nothing could be checked")


def questions(service: Service) -> list[tuple[str, dict[str, Any]]]:
    """Endpoints and bodies to try in turn; the kind of model that the options tell comes first."""
    model = served_name(service)
    complete: dict[str, Any] = {"model": model, "prompt": "One, two, three,", "max_tokens": TOKENS, "temperature": 0}
    embed: dict[str, Any] = {"model": model, "input": "hello"}
    rank: dict[str, Any] = {"model": model, "query": "hello", "documents": ["hello"]}
    options = vllm_options(service)
    asks = [("/v1/completions", complete), ("/v1/embeddings", embed), ("/rerank", rank)]
    if options.runner == "pooling" or options.convert in ("embed", "classify"):
        asks = [asks[1], asks[2]]
    return asks


def makes_sense(answer: Any) -> bool:
    """False for a text that repeats one sign ("!!!!"), and for numbers that are missing, all zero or no numbers."""
    if not isinstance(answer, dict):
        return False
    if isinstance(choices := answer.get("choices"), list) and choices and isinstance(choices[0], dict):
        return not _is_garbage(choices[0].get("text"))
    if isinstance(data := answer.get("data"), list) and data and isinstance(data[0], dict):
        return _is_vector(data[0].get("embedding"))
    if isinstance(results := answer.get("results"), list) and results and isinstance(results[0], dict):
        return _is_number(results[0].get("relevance_score"))
    return False


def _is_garbage(text: Any) -> bool:
    if not isinstance(text, str):
        return True
    signs = "".join(text.split())
    return len(signs) >= TOKENS and len(set(signs)) == 1 and not signs.isalnum()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value)) and any(value)


def _garbage(service: Service, why: str) -> Failed:
    return Failed(
        "wake-garbage",
        f"{service.id} woke up, but does not answer sensibly",
        why=why,
        hint=f"restart it (`gpumod service restart {service.id}`), or use sleep_mode l1",
        service=service.id,
    )
