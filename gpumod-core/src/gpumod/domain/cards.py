"""Known NVIDIA cards, and which number formats a card computes itself.

Values are those of NVIDIA's own publications: compute capability and architecture of the CUDA documentation's list of
GPUs, memory, bandwidth and bus of the data sheet or product page of each card, names as NVML gives them. What was sold
under one name with several bandwidths has none here.
"""

from __future__ import annotations

import re
from typing import Literal

from gpumod.domain.base import Frozen
from gpumod.domain.machine import GpuProfile, GpuReading

NumberFormat = Literal["bf16", "fp8"]
NATIVE_FROM: dict[NumberFormat, tuple[int, int]] = {"bf16": (8, 0), "fp8": (8, 9)}
"""The compute capability from which on a card's tensor cores take a format."""


class KnownCard(Frozen):
    """A card as it is sold: `memory_gib` nominal, `bandwidth_gb_s` (10^9 bytes) of its memory, None where that is not
    certain, `pcie` the generation of its bus."""

    name: str
    architecture: str
    compute_capability: str
    memory_gib: int
    bandwidth_gb_s: int | None
    pcie: int


_TABLE = """
Volta 7.0 3   | Tesla V100-PCIE-16GB 16 900 | Tesla V100-PCIE-32GB 32 900 | Tesla V100-SXM2-16GB 16 900
Volta 7.0 3   | Tesla V100-SXM2-32GB 32 900
Turing 7.5 3  | Tesla T4 16 320 | Quadro RTX 6000 24 672 | Quadro RTX 8000 48 672 | TITAN RTX 24 672
Turing 7.5 3  | GeForce RTX 2060 6 336 | GeForce RTX 2060 12 336 | GeForce RTX 2060 SUPER 8 448
Turing 7.5 3  | GeForce RTX 2070 8 448 | GeForce RTX 2070 SUPER 8 448 | GeForce RTX 2080 8 448
Turing 7.5 3  | GeForce RTX 2080 SUPER 8 496 | GeForce RTX 2080 Ti 11 616
Ampere 8.0 4  | A100-PCIE-40GB 40 1555 | A100-SXM4-40GB 40 1555 | A100 80GB PCIe 80 1935 | A100-SXM4-80GB 80 2039
Ampere 8.0 4  | A30 24 933
Ampere 8.6 4  | A2 16 200 | A10 24 600 | A40 48 696 | RTX A2000 6 288 | RTX A2000 12GB 12 288 | RTX A4000 16 448
Ampere 8.6 4  | RTX A4500 20 640 | RTX A5000 24 768 | RTX A5500 24 768 | RTX A6000 48 768
Ampere 8.6 4  | GeForce RTX 3050 8 - | GeForce RTX 3060 8 240 | GeForce RTX 3060 12 360 | GeForce RTX 3060 Ti 8 -
Ampere 8.6 4  | GeForce RTX 3070 8 448 | GeForce RTX 3070 Ti 8 608 | GeForce RTX 3080 10 760 | GeForce RTX 3080 12 912
Ampere 8.6 4  | GeForce RTX 3080 Ti 12 912 | GeForce RTX 3090 24 936 | GeForce RTX 3090 Ti 24 1008
Ada 8.9 4     | L4 24 300 | L40 48 864 | L40S 48 864 | RTX 4000 Ada Generation 20 360
Ada 8.9 4     | RTX 4500 Ada Generation 24 432 | RTX 5000 Ada Generation 32 576 | RTX 6000 Ada Generation 48 960
Ada 8.9 4     | GeForce RTX 4060 8 272 | GeForce RTX 4060 Ti 8 288 | GeForce RTX 4060 Ti 16 288 | GeForce RTX 4070 12 -
Ada 8.9 4     | GeForce RTX 4070 SUPER 12 504 | GeForce RTX 4070 Ti 12 504 | GeForce RTX 4070 Ti SUPER 16 672
Ada 8.9 4     | GeForce RTX 4080 16 717 | GeForce RTX 4080 SUPER 16 736 | GeForce RTX 4090 24 1008
Hopper 9.0 5  | H100 PCIe 80 2000 | H100 80GB HBM3 80 3350 | H200 141 4800
Blackwell 10.0 5 | B200 180 8000
Blackwell 12.0 5 | RTX PRO 6000 Blackwell Workstation Edition 96 1792
Blackwell 12.0 5 | RTX PRO 6000 Blackwell Max-Q Workstation Edition 96 1792
Blackwell 12.0 5 | GeForce RTX 5050 8 320 | GeForce RTX 5060 8 448 | GeForce RTX 5060 Ti 8 448
Blackwell 12.0 5 | GeForce RTX 5060 Ti 16 448 | GeForce RTX 5070 12 672 | GeForce RTX 5070 Ti 16 896
Blackwell 12.0 5 | GeForce RTX 5080 16 960 | GeForce RTX 5090 32 1792
"""
"""Each line: architecture, compute capability, PCIe generation; then cards, each with GiB and GB/s (-: not certain)."""


def known_card(name: str, total_mb: int) -> KnownCard | None:
    """The card that NVML calls `name`, of several under one name that whose memory is nearest to `total_mb`; None for a
    name that is not known. "RTX 4090" is as good as "NVIDIA GeForce RTX 4090"."""
    found = _cards().get(_key(name), ())
    return min(found, key=lambda card: abs(card.memory_gib * 1024 - total_mb), default=None)


def architecture_of(gpu: GpuReading) -> str:
    """As its driver tells, else as it is known; "" where nobody knows."""
    card = known_card(gpu.name, gpu.total_mb)
    return gpu.architecture or (card.architecture if card else "")


def capability_of(gpu: GpuReading | GpuProfile) -> str:
    """The CUDA compute capability ("8.9") as the driver tells, else as it is known; "" where nobody knows."""
    card = known_card(gpu.name, gpu.total_mb)
    return gpu.compute_capability or (card.compute_capability if card else "")


def kind_of(gpu: GpuReading) -> str:
    """Architecture and compute capability in words; "" where nobody knows."""
    capability = capability_of(gpu)
    told = (architecture_of(gpu), f"compute capability {capability}" if capability else "")
    return ", ".join(part for part in told if part)


def computes(capability: str, number_format: NumberFormat) -> bool | None:
    """Whether a card of this compute capability computes in `number_format` itself; None where it is not known."""
    found = re.fullmatch(r"(\d+)\.(\d+)", capability)
    return (int(found[1]), int(found[2])) >= NATIVE_FROM[number_format] if found else None


def profile_of(gpu: GpuReading) -> GpuProfile:
    """What is kept of a GPU."""
    return GpuProfile(
        index=gpu.index,
        name=gpu.name,
        uuid=gpu.uuid,
        total_mb=gpu.total_mb,
        architecture=architecture_of(gpu),
        compute_capability=capability_of(gpu),
    )


def _key(name: str) -> str:
    """Names of one card are the same without its maker and its family."""
    words = re.split(r"[\s-]+", name.casefold().strip())
    return " ".join(word for word in words if word not in ("nvidia", "geforce", "tesla"))


_read: dict[str, tuple[KnownCard, ...]] = {}


def _cards() -> dict[str, tuple[KnownCard, ...]]:
    """By key. Read at the first question: most commands ask none."""
    if not _read:
        for line in _TABLE.strip().splitlines():
            kind, *cards = line.split("|")
            architecture, capability, pcie = kind.split()
            for card in cards:
                name, memory_gib, bandwidth = card.strip().rsplit(" ", 2)
                known = KnownCard(
                    name=name,
                    architecture=architecture,
                    compute_capability=capability,
                    memory_gib=int(memory_gib),
                    bandwidth_gb_s=None if bandwidth == "-" else int(bandwidth),
                    pcie=int(pcie),
                )
                _read[_key(name)] = (*_read.get(_key(name), ()), known)
    return _read
