from __future__ import annotations

import pytest

from distft.planning.cards import known_card


@pytest.mark.parametrize(
    ("name", "tflops", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 989, 3350),
        ("NVIDIA H100 PCIe", 756, 2000),
        ("NVIDIA H200", 989, 4800),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA A100-PCIE-40GB", 312, 1935),
        ("NVIDIA A100 80GB PCIe", 312, 1935),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA L40S", 362, 864),
        ("NVIDIA GeForce RTX 4090", 165, 1008),
    ],
)
def test_cards_are_known_by_their_drivers_names(name: str, tflops: float, bandwidth: float) -> None:
    card = known_card(name)
    assert card is not None
    assert (card.bf16_tflops, card.memory_bandwidth_gbs) == (tflops, bandwidth)


@pytest.mark.parametrize("name", ["Tesla V100-SXM2-16GB", "NVIDIA A1000", ""])
def test_of_others_nothing_is_known(name: str) -> None:
    assert known_card(name) is None
