"""Which process of an Ollama holds which model: it starts one for each, told the file with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import psutil

from gpumod.api import Http
from gpumod_fastapi.ollama.web import Entry, weights_of

FLAGS = ("--model", "-m")


class Runners:
    """Remembers the file of each model: asking for it is dear, and it changes only with the model's digest."""

    def __init__(self) -> None:
        self._weights: dict[tuple[int, str, str], str | None] = {}

    async def of(self, loaded: Mapping[str, Entry], port: int, pids: Sequence[int], http: Http) -> dict[str, int]:
        """The process of each loaded model, by the model's name. Raises HttpFailure."""
        runners = _by_weights(pids)
        found: dict[str, int] = {}
        for name, entry in loaded.items():
            key = (port, name, str(entry.get("digest", "")))
            if key not in self._weights:
                self._weights[key] = await weights_of(name, port, http)
            pid = runners.get(self._weights[key] or name) or runners.get(name)
            if pid is not None:
                found[name] = pid
        left = [name for name in loaded if name not in found]
        unknown = set(runners.values()) - set(found.values())
        if len(left) == len(unknown) == 1:  # whatever file it was given, it is this one
            found[left[0]] = unknown.pop()
        return found


def _by_weights(pids: Sequence[int]) -> dict[str, int]:
    """The processes among `pids` that were told a model, by what they were told."""
    found: dict[str, int] = {}
    for pid in pids:
        try:
            words = psutil.Process(pid).cmdline()
        except psutil.Error:
            continue  # it ended meanwhile, or is not ours to look at
        for flag, value in pairwise(words):
            if flag in FLAGS:
                found[value] = pid
                break
    return found
