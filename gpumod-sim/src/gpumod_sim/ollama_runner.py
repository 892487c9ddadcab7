"""The process in which the stand-in for Ollama has one model: its words name the weights, as the real one's do."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from gpumod_sim import holder


def main(folder: str, argv: Sequence[str]) -> int:
    """`--model FILE --service ID --gpu INDEX --mb MIB`: hold the memory until a signal, and say when it is held."""
    said = dict(pairwise(argv))
    return holder.main(folder, [said["--service"], said["--gpu"], said["--mb"]])
