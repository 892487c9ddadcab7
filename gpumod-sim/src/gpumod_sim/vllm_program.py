"""The program `vllm`: it tells its version at once, and the rest is loaded only to serve."""

from __future__ import annotations

from collections.abc import Sequence

VERSION = "0.33.0"


def main(folder: str, argv: Sequence[str]) -> int:
    """The `vllm` program of the machine in `folder`. Returns the exit status."""
    if list(argv[:1]) in (["--version"], ["-v"]):
        print(VERSION)  # noqa: T201 - what the real program prints
        return 0
    from gpumod_sim.vllm import main as serve  # noqa: PLC0415 - asyncio and all that

    return serve(folder, argv)
