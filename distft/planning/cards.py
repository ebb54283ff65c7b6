"""Known GPUs by the name that their driver gives them: what their data sheets say, where no cluster file does."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """Dense bfloat16 TFLOP/s; GB/s to its memory, and to its neighbours, both directions together."""

    bf16_tflops: float
    memory_bandwidth_gbs: float
    interconnect_gbs: float
    nvlink: bool


# The first whose words all stand in the name is taken. Cards without bfloat16 (V100, T4) have no rates here.
_CARDS: tuple[tuple[tuple[str, ...], Card], ...] = (
    (("B200",), Card(2250, 8000, 1800, nvlink=True)),
    (("H200",), Card(989, 4800, 900, nvlink=True)),
    (("H100", "PCIE"), Card(756, 2000, 128, nvlink=False)),
    (("H100",), Card(989, 3350, 900, nvlink=True)),
    (("A100", "PCIE"), Card(312, 1935, 64, nvlink=False)),
    (("A100", "40GB"), Card(312, 1555, 600, nvlink=True)),
    (("A100",), Card(312, 2039, 600, nvlink=True)),
    (("L40S",), Card(362, 864, 64, nvlink=False)),
    (("L4",), Card(121, 300, 64, nvlink=False)),
    (("A10G",), Card(70, 600, 64, nvlink=False)),
    (("A10",), Card(125, 600, 64, nvlink=False)),
    (("RTX", "5090"), Card(210, 1792, 128, nvlink=False)),
    (("RTX", "4090"), Card(165, 1008, 64, nvlink=False)),
    (("RTX", "3090"), Card(71, 936, 64, nvlink=False)),
)


def known_card(name: str) -> Card | None:
    """What is known of a GPU, "NVIDIA A100-SXM4-80GB" for example; None where nothing is."""
    parts = name.upper().replace("-", " ").split()
    return next((card for words, card in _CARDS if all(word in parts for word in words)), None)
