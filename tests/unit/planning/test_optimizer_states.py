"""What optimizers keep and do, counted from their declarations."""

from __future__ import annotations

import pytest

from distft.config.optimizers.adafactor import Adafactor
from distft.config.optimizers.adamw import AdamW, EightBitAdamW
from distft.config.optimizers.lion import Lion
from distft.config.optimizers.muon import Muon
from distft.config.optimizers.optimizer import Optimizer
from distft.config.optimizers.sgd import Sgd
from distft.planning.architectures import Tensors
from distft.planning.model_sizes import TensorTable
from distft.planning.optimizer_states import (
    kept_bytes,
    made_orthogonal,
    orthogonal_bytes,
    orthogonal_flops,
    state_bytes,
)

# 1,000 x 8 embedding, four matrices of 8 x 16, two stacks of 3 matrices of 16 x 8, two norms of 8.
TABLE = TensorTable((
    Tensors("embedding", "embedding", (1000, 8)), Tensors("mlp.up", "layers", (8, 16), 4),
    Tensors("mlp.experts.down", "layers", (3, 16, 8), 2), Tensors("norm", "layers", (8,), 2),
))  # fmt: skip


@pytest.mark.parametrize(("optimizer", "held", "kept"), [
    (AdamW(), 8, 8), (AdamW(state_dtype="bfloat16"), 4, 4), (Lion(), 4, 4), (Sgd(), 0, 0),
    (EightBitAdamW(), 2 * (1 + 4 / 256), 8),
])  # fmt: skip
def test_the_same_beside_every_weight(optimizer: Optimizer, held: float, kept: int) -> None:
    assert (state_bytes(optimizer, TABLE), kept_bytes(optimizer, TABLE)) == (held, kept)
    assert not made_orthogonal(optimizer, TABLE).tensors


def test_muon_keeps_one_number_beside_matrices_and_two_beside_all_else() -> None:
    matrices = 4 * 8 * 16 + 2 * 3 * 16 * 8
    others = 1000 * 8 + 2 * 8
    mean = (4 * matrices + 8 * others) / (matrices + others)
    assert state_bytes(Muon(), TABLE) == kept_bytes(Muon(), TABLE) == pytest.approx(mean)


def test_adafactor_keeps_a_number_a_row_and_a_column() -> None:
    """And one beside each weight of what has no columns."""
    numbers = (1000 + 8) + 4 * (8 + 16) + 2 * 3 * (16 + 8) + 2 * 8
    assert state_bytes(Adafactor(), TABLE) * TABLE.total == pytest.approx(4 * numbers)
    assert kept_bytes(Adafactor(), TABLE) * TABLE.total == pytest.approx(4 * numbers)


def test_what_muon_makes_orthogonal() -> None:
    """Ten matrices of 8 and 16: five times 4 x 8 x 8 x 16 + 2 x 8 x 8 x 8 operations each. The largest tensor is a
    stack of 384 numbers: one a rank, and five of them where one is computed."""
    found = made_orthogonal(Muon(), TABLE)
    assert orthogonal_flops(found) == 10 * 5 * (4 * 8 * 8 * 16 + 2 * 8**3)
    assert orthogonal_bytes(found, 4) == 4 * 384 * (4 + 5)
    assert orthogonal_bytes(found, 1) == 4 * 384 * 5
