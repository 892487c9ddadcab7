"""What a service takes, and where each number comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import model_validator

from gpumod.domain.base import Frozen


class Source(StrEnum):
    """Where a number comes from, most trustworthy first.

    `explicit` is an option of the user that decides what the runtime takes (`gpu_memory_utilization`).
    """

    MEASURED = "measured"
    EXPLICIT = "explicit"
    ESTIMATED = "estimated"
    DECLARED = "declared"


class Footprint(Frozen):
    """Memory (MiB) and times (s) of one service, for the sleep level that it uses.

    `vram_mb` awake and settled, `start_peak_mb` at most while starting, `asleep_mb` the residue asleep: each the
    sum over the service's GPUs. `ram_asleep_mb` is the host RAM that sleeping takes (L1 keeps the weights there).
    `equal_part`: it takes the same part of each of its GPUs, so more MiB of a larger one; else the same MiB of each.
    `exclusive_start`: while it starts, no other step on its GPU takes or gives memory (vLLM measures free memory).
    `sources` maps a field to where its number comes from, `why` says it in words. Times are None when unknown.
    """

    service: str
    vram_mb: int
    start_peak_mb: int
    asleep_mb: int = 0
    ram_mb: int = 0
    ram_asleep_mb: int = 0
    exclusive_start: bool = False
    equal_part: bool = False
    sources: Mapping[str, Source] = {}
    why: str = ""
    start_s: float | None = None
    stop_s: float | None = None
    sleep_s: float | None = None
    wake_s: float | None = None

    @model_validator(mode="after")
    def _peak_covers(self) -> Footprint:
        if self.start_peak_mb < self.vram_mb:
            raise ValueError("start_peak_mb is below vram_mb")
        return self

    @property
    def source(self) -> Source:
        """Where `vram_mb` comes from."""
        return self.sources.get("vram_mb", Source.DECLARED)


def split(total_mb: int, gpus: Sequence[int], totals_mb: Mapping[int, int] | None = None) -> dict[int, int]:
    """`total_mb` shared among `gpus`, each part rounded up: evenly, or in proportion to `totals_mb`.

    Cards that are all lost have no size any more: these share evenly.
    """
    if total_mb <= 0:
        return {}
    whole_mb = sum(totals_mb[gpu] for gpu in gpus) if totals_mb is not None else 0
    if totals_mb is None or whole_mb == 0:
        return {gpu: -(-total_mb // len(gpus)) for gpu in gpus}
    return {gpu: -(-total_mb * totals_mb[gpu] // whole_mb) for gpu in gpus}


class Estimate(Frozen):
    """One estimator's answer. Fields that it does not know are None."""

    estimator: str
    source: Source = Source.ESTIMATED
    vram_mb: int | None = None
    start_peak_mb: int | None = None
    asleep_mb: int | None = None
    ram_asleep_mb: int | None = None
    why: str = ""
