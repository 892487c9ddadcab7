"""Answers questions from a few passages, with three models that take turns on one GPU.

    gpumod switch rag
    python rag.py "Why is the sea salty?" "What does a lighthouse keeper do?"

A question goes through four models. The embedding model is awake all the time; the writer of hypothetical answers
(`hyde`), the reranker and the chat model share one place: each is awake while somebody has a turn with it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from gpumod.bootstrap import open_gpumod
from gpumod.operations.gpumod import Gpumod
from gpumod.operations.params import ServiceRef

PASSAGES = (
    "Rivers carry salt from rocks to the sea, and when water evaporates the salt stays behind.",
    "A lighthouse keeper trimmed the lamp, wound the clockwork and wrote down the weather.",
    "The tides follow the moon, which pulls the water towards it.",
    "Fog signals were fired by hand before the siren took over.",
    "Deep water is cold everywhere, also below the equator.",
    "A Fresnel lens bends the light of one lamp into a beam that is seen for thirty kilometres.",
)
KEPT = 3
"""So many passages go from the search to the reranker; the best of them to the chat model."""
PATIENCE_S = 600.0


class Rag:
    """The pipeline over one gpumod. Several questions may be under way at once."""

    def __init__(self, gpumod: Gpumod, client: httpx.AsyncClient) -> None:
        self.gpumod = gpumod
        self.client = client

    async def answer(self, question: str) -> dict[str, Any]:
        """What each model made of `question`, and how long its turns were waited for (seconds)."""
        async with self.gpumod.turn("hyde", what="rag: draft") as turn:
            draft = await self._completion(turn.port, turn.service, f"Answer briefly: {question}")
        found = await self._nearest(draft)
        async with self.gpumod.turn("reranker", what="rag: rank") as ranking:
            best = await self._best(ranking.port, question, found)
        async with self.gpumod.turn("chat", what="rag: answer") as chatting:
            told = await self._completion(chatting.port, chatting.service, f"{best}\n\n{question}")
        waited_s = [turn.waited_s, ranking.waited_s, chatting.waited_s]
        return {"question": question, "draft": draft, "passage": best, "answer": told, "waited_s": waited_s}

    async def _completion(self, port: int | None, service: str, prompt: str) -> str:
        asked = {"model": await self._model(port, service), "prompt": prompt, "max_tokens": 64}
        return str((await self._post(port, "/v1/completions", asked))["choices"][0].get("text", ""))

    async def _nearest(self, text: str) -> list[str]:
        """The passages that are nearest in meaning to `text`."""
        embedding = (await self.gpumod.service_show(ServiceRef(service="embedding"))).service
        asked = {"model": await self._model(embedding.port, embedding.id), "input": [text, *PASSAGES]}
        rows = (await self._post(embedding.port, "/v1/embeddings", asked))["data"]
        wanted, *others = (row["embedding"] for row in rows)
        order = sorted(range(len(PASSAGES)), key=lambda n: -likeness(wanted, others[n]))
        return [PASSAGES[n] for n in order[:KEPT]]

    async def _best(self, port: int | None, question: str, passages: Sequence[str]) -> str:
        asked = {"model": await self._model(port, "reranker"), "query": question, "documents": list(passages)}
        results = (await self._post(port, "/v1/rerank", asked))["results"]
        return passages[max(results, key=lambda row: row["relevance_score"])["index"]]

    async def _model(self, port: int | None, service: str) -> str:
        """What the server on `port` calls the model: a router serves several, by the ids of their services."""
        reply = await self.client.get(f"http://127.0.0.1:{port}/v1/models")
        names = [row["id"] for row in reply.raise_for_status().json()["data"]]
        return service if service in names else str(names[0])

    async def _post(self, port: int | None, path: str, body: Any) -> Any:
        reply = await self.client.post(f"http://127.0.0.1:{port}{path}", json=body)
        return reply.raise_for_status().json()


def likeness(a: Sequence[float], b: Sequence[float]) -> float:
    """The cosine of the angle between two embeddings."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b) or 1.0)


async def answer_all(home: Path | None, questions: Sequence[str]) -> list[dict[str, Any]]:
    """Answer all questions at once: each waits for its turns."""
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        rag = Rag(open_gpumod(home), client)
        return list(await asyncio.gather(*(rag.answer(question) for question in questions)))


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer questions, with models that take turns on one GPU.")
    parser.add_argument("questions", nargs="+", metavar="QUESTION")
    parser.add_argument("--home", type=Path, help="gpumod's home, where it is not the usual one")
    args = parser.parse_args()
    for answer in asyncio.run(answer_all(args.home, args.questions)):
        sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
