"""Memory in use that no known process holds, as one run sees it: what is waited for, and what was given up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gpumod.domain.machine import HostSnapshot

LAG_S = 2.0
"""A driver forgets a dead process within this."""
TOLERANCE_MB = 64
"""Readings of a driver jitter by less than this."""


@dataclass
class Release:
    """A service that lets go of `held_mb` (MiB per GPU) since `began_s`; `pids` are to be gone from the GPU for that.

    `ended_s` is when they were seen gone, and `left_mb` the least that was missing on each GPU since: more than that
    it cannot have left.
    """

    service: str
    held_mb: Mapping[int, int]
    pids: frozenset[int]
    began_s: float
    ended_s: float | None = None
    left_mb: dict[int, int] = field(default_factory=dict)

    @property
    def missing_mb(self) -> Mapping[int, int]:
        """What did not come back, per GPU; what is within the jitter has."""
        return {gpu: mb for gpu, mb in self.left_mb.items() if mb > TOLERANCE_MB}


@dataclass
class Unattributed:
    """`before_mb` is what nobody held when the run was planned, `lost_mb` what did not come back since (MiB per GPU).

    What is lost was told once, of the service whose end left it. From then on it is memory like `before_mb`: nobody
    waits for it, and nobody else is blamed. What comes back after all is lost no longer.
    """

    before_mb: Mapping[int, int]
    lost_mb: dict[int, int] = field(default_factory=dict)
    releases: list[Release] = field(default_factory=list)
    back: dict[int, tuple[float, int]] = field(default_factory=dict)
    """Since when some of what is lost seems to be back, and how much at least (MiB per GPU)."""

    @classmethod
    def of(cls, snapshot: HostSnapshot) -> Unattributed:
        return cls({gpu.index: snapshot.unattributed_mb(gpu.index) for gpu in snapshot.gpus})

    def known_mb(self, gpu: int) -> int:
        """What nobody waits for."""
        return self.before_mb.get(gpu, 0) + self.lost_mb.get(gpu, 0)

    def see(
        self, holding: Collection[int], more_mb: Mapping[int, int], coming_mb: Mapping[int, int], now_s: float
    ) -> None:
        """Take a look into account: `holding` are the pids that hold memory, `more_mb` is what nobody holds beside
        what is known, and `coming_mb` what of it may be that of starts under way (MiB per GPU that can be looked at).
        """
        excess_mb = dict(more_mb)
        for gpu, mb in self.lost_mb.items():
            self._come_back(gpu, -excess_mb.get(gpu, 0), now_s)
            excess_mb[gpu] = excess_mb.get(gpu, 0) + mb - self.lost_mb[gpu]
        for release in self.releases:
            if release.pids.isdisjoint(holding):
                release.ended_s = now_s if release.ended_s is None else release.ended_s
                for gpu in release.held_mb:
                    missing_mb = excess_mb.get(gpu, 0) - coming_mb.get(gpu, 0)
                    release.left_mb[gpu] = min(release.left_mb.get(gpu, missing_mb), missing_mb)

    def _come_back(self, gpu: int, mb: int, now_s: float) -> None:
        """Some of what is lost is lost no longer, when `mb` less than that was in use for as long as a driver lags: one
        look alone may have met a process that was told before its memory was counted."""
        if mb <= 0 or not self.lost_mb[gpu]:
            self.back.pop(gpu, None)
            return
        since_s, least_mb = self.back.get(gpu, (now_s, mb))
        self.back[gpu] = since_s, min(least_mb, mb)
        if now_s - since_s >= LAG_S:
            self.lost_mb[gpu] -= min(self.lost_mb[gpu], self.back.pop(gpu)[1])

    def suspects(self, release: Release, gpu: int) -> tuple[str, ...]:
        """Who can have left what `release` misses on `gpu`, by what each held, and when it let go.

        One that began when another's had been missing for longer than a driver lags has not left it.
        """
        missing_mb = release.left_mb[gpu]
        ended = [(one, one.ended_s) for one in self.releases if gpu in one.left_mb and one.ended_s is not None]
        able = [(one, at) for one, at in ended if min(one.held_mb[gpu], one.left_mb[gpu]) + TOLERANCE_MB >= missing_mb]
        among = able or ended
        first_s = min(at for _, at in among)
        return tuple(one.service for one, _ in among if one.began_s <= first_s + LAG_S)

    def lose(self, missing_mb: Mapping[int, int]) -> None:
        """Give up what is missing, per GPU: nobody else misses it any more."""
        for gpu, mb in missing_mb.items():
            self.lost_mb[gpu] = self.lost_mb.get(gpu, 0) + mb
            for one in self.releases:
                if gpu in one.left_mb:
                    one.left_mb[gpu] -= mb
