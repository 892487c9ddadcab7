"""The chooser: from measured, explicit, estimated and declared numbers to one footprint that says why. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from gpumod.domain.footprint import Estimate, Footprint, Source
from gpumod.domain.service import STOP_LEVEL, Service

NOTHING_SHARE = 0.05
"""Settled memory below this share of what was expected is a measurement of nothing."""
NOTHING_MB, NOTHING_EXPECTED_MB = 64, 512
"""So is less than the first where the second or more was expected."""

Field = Literal["vram_mb", "start_peak_mb", "asleep_mb", "ram_asleep_mb"]
_RANK = tuple(Source)


class _Candidate(NamedTuple):
    mb: int
    source: Source
    said_by: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.mb} MiB" + (f" ({self.said_by})" if self.said_by else "")


def choose(
    service: Service,
    estimates: Sequence[Estimate] = (),
    samples: Mapping[str, float] | None = None,
    *,
    exclusive_start: bool = False,
    sleep_residue_mb: int | None = None,
    sleep_ram_mb: int | None = None,
) -> Footprint:
    """What `service` takes: measured beats explicit beats estimated beats declared, field by field.

    `samples` maps the kinds of :class:`gpumod.domain.run.Sample` to values under this service's key.
    `sleep_residue_mb` and `sleep_ram_mb` are what its sleep strategy predicts (MiB; None: not known) and count as
    estimates. Of several answers of equal rank the largest is taken. A measurement of nothing (healthy, but next to
    nothing on the card: it fell back to the CPU) is left out with everything measured beside it. A measured peak may
    only raise, since one is easily missed. What a sleeping service keeps is never above `vram_mb`, and is all of it
    where nobody knows. `why` names the losers too.
    """
    notes: list[str] = []
    known = {kind: value for kind, value in (samples or {}).items() if math.isfinite(value) and value >= 0}
    ignored = _measured_nothing(service, estimates, known)
    if ignored:
        notes.append(ignored)
        known = {}

    awake = _ranked("vram_mb", estimates, known.get("settled_mb"), service.vram_mb)
    vram = awake[0] if awake else _Candidate(0, Source.DECLARED)
    sources = {"vram_mb": vram.source}

    peaks = _ranked("start_peak_mb", estimates, known.get("peak_mb"), service.start_peak_mb)
    if peaks[1:] and peaks[0].source is Source.MEASURED and peaks[0].mb < peaks[1].mb:
        peaks[:2] = peaks[1::-1]
    peak = peaks[0] if peaks and peaks[0].mb > vram.mb else vram
    sources["start_peak_mb"] = peak.source
    if peak.mb > vram.mb:
        notes.append(f"while starting: {'; '.join(map(str, peaks))}")

    asleep_mb = ram_asleep_mb = 0
    if service.sleep_level != STOP_LEVEL:
        predicted = Estimate(estimator="sleep strategy", asleep_mb=sleep_residue_mb, ram_asleep_mb=sleep_ram_mb)
        asked = (*estimates, predicted)
        residues = _ranked("asleep_mb", asked, known.get("asleep_mb"), service.asleep_mb)
        if residues:
            asleep_mb = min(residues[0].mb, vram.mb)
            sources["asleep_mb"] = residues[0].source
            notes.append(f"asleep at {service.sleep_level}: {'; '.join(map(str, residues))}")
        else:
            asleep_mb = vram.mb
            notes.append(f"what it keeps asleep at {service.sleep_level} is not known: all of it is counted")
        rams = _ranked("ram_asleep_mb", asked, None, None)
        if rams:
            ram_asleep_mb = rams[0].mb
            sources["ram_asleep_mb"] = rams[0].source

    times = {kind: known.get(kind) for kind in ("start_s", "stop_s", "sleep_s", "wake_s")}
    sources |= {kind: Source.MEASURED for kind, value in times.items() if value is not None}
    return Footprint(
        service=service.id,
        vram_mb=vram.mb,
        start_peak_mb=peak.mb,
        asleep_mb=asleep_mb,
        ram_asleep_mb=ram_asleep_mb,
        exclusive_start=exclusive_start,
        sources=sources,
        why="; ".join([*(map(str, awake or [vram])), *notes]),
        **times,
    )


def _ranked(
    field: Field, estimates: Sequence[Estimate], measured: float | None, declared: int | None
) -> list[_Candidate]:
    """Every answer for `field`, the one to take first. A `vram_mb` of 0 is what a definition says by saying nothing."""
    answers = [] if measured is None else [_Candidate(math.ceil(measured), Source.MEASURED, "on this card")]
    for estimate in estimates:
        mb: int | None = getattr(estimate, field)
        if mb is not None and mb >= 0:
            said_by = f"{estimate.estimator}: {estimate.why}" if estimate.why else estimate.estimator
            answers.append(_Candidate(mb, estimate.source, said_by))
    if declared is not None and (declared or field != "vram_mb"):
        answers.append(_Candidate(declared, Source.DECLARED))
    return sorted(answers, key=lambda answer: (_RANK.index(answer.source), -answer.mb))


def _measured_nothing(service: Service, estimates: Sequence[Estimate], samples: Mapping[str, float]) -> str:
    """Why the samples are not a measurement of this service on a GPU; empty when they are."""
    measured = samples.get("settled_mb", samples.get("peak_mb"))
    others = _ranked("vram_mb", estimates, None, service.vram_mb)
    if measured is None or not others:
        return ""
    explicit = others[0].source is Source.EXPLICIT
    expected = others[0].mb if explicit else service.vram_mb or others[0].mb
    too_little = measured < NOTHING_SHARE * expected or (measured < NOTHING_MB and expected >= NOTHING_EXPECTED_MB)
    if not too_little:
        return ""
    return f"a measurement of {measured:.0f} MiB where {expected} were expected is ignored (did it run on the CPU?)"
