"""The table of known cards: whole, found by the names that NVML gives, and silent where nothing is known."""

from __future__ import annotations

import pytest

from gpumod.domain.cards import architecture_of, capability_of, computes, kind_of, known_card, profile_of
from gpumod.domain.machine import GpuReading


def reading(name: str, total_mb: int, **told: str) -> GpuReading:
    return GpuReading(index=0, name=name, total_mb=total_mb, used_mb=0, free_mb=total_mb, **told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "total_mb", "capability", "bandwidth", "pcie"),
    [
        ("NVIDIA GeForce RTX 4090", 24564, "8.9", 1008, 4),
        ("RTX 4090", 24564, "8.9", 1008, 4),
        ("NVIDIA GeForce RTX 3080", 10240, "8.6", 760, 4),
        ("NVIDIA GeForce RTX 3080", 12288, "8.6", 912, 4),
        ("NVIDIA GeForce RTX 4070", 12282, "8.9", None, 4),
        ("NVIDIA GeForce RTX 5090", 32607, "12.0", 1792, 5),
        ("Tesla T4", 15360, "7.5", 320, 3),
        ("NVIDIA A100-SXM4-80GB", 81920, "8.0", 2039, 4),
        ("NVIDIA A100 80GB PCIe", 81920, "8.0", 1935, 4),
        ("NVIDIA H100 80GB HBM3", 81559, "9.0", 3350, 5),
        ("NVIDIA H200", 143771, "9.0", 4800, 5),
        ("NVIDIA B200", 183359, "10.0", 8000, 5),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "8.9", 960, 4),
        ("Quadro RTX 6000", 24576, "7.5", 672, 3),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 97887, "12.0", 1792, 5),
    ],
)
def test_cards_as_nvml_names_them(name: str, total_mb: int, capability: str, bandwidth: int | None, pcie: int) -> None:
    card = known_card(name, total_mb)
    assert card is not None
    assert (card.compute_capability, card.bandwidth_gb_s, card.pcie) == (capability, bandwidth, pcie)
    assert abs(card.memory_gib * 1024 - total_mb) < 0.07 * total_mb  # what a driver keeps, or ECC


@pytest.mark.parametrize(
    "name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "world card", "", "NVIDIA"]
)
def test_what_is_only_like_a_known_name_is_not_known(name: str) -> None:
    assert known_card(name, 24564) is None
    assert (kind_of(reading(name, 24564)), capability_of(reading(name, 24564))) == ("", "")
    assert computes("", "bf16") is None


def test_what_the_driver_tells_is_believed_first() -> None:
    card = reading("NVIDIA GeForce RTX 4090", 24564, architecture="Told", compute_capability="3.5")
    assert (architecture_of(card), capability_of(card)) == ("Told", "3.5")
    assert kind_of(card) == "Told, compute capability 3.5"
    assert profile_of(card).compute_capability == "3.5"
    assert kind_of(reading("Tesla T4", 15360)) == "Turing, compute capability 7.5"


@pytest.mark.parametrize(
    ("capability", "bf16", "fp8"),
    [("7.5", False, False), ("8.0", True, False), ("8.6", True, False), ("8.9", True, True), ("9.0", True, True),
     ("10.0", True, True), ("12.0", True, True), ("x", None, None)],
)  # fmt: skip
def test_formats_come_with_the_compute_capability(capability: str, bf16: bool | None, fp8: bool | None) -> None:
    assert (computes(capability, "bf16"), computes(capability, "fp8")) == (bf16, fp8)
