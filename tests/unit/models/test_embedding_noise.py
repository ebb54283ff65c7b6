"""NEFTune's noise: how large, on what, and of what it depends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distft.models.embedding_noise import EmbeddingNoise

WIDTH, ALPHA = 16, 5.0


class Model(nn.Module):
    """Embeddings alone; of zeros, so that what comes out is the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.zeros(10, WIDTH))

    def get_input_embeddings(self) -> nn.Module:
        return self.table


def noise_of(step: int, samples: Sequence[int], lengths: Sequence[int], *, seed: int = 1) -> list[Tensor]:
    """Of each row, padding included."""
    model = Model()
    noise = EmbeddingNoise(model, ALPHA, seed)
    with noise.on(step, samples, lengths):
        return list(model.table(torch.zeros(len(samples), max(lengths), dtype=torch.int64)))


def test_it_is_uniform_up_to_alpha_by_the_root_of_length_and_width() -> None:
    [found] = noise_of(0, [0], [4000])
    bound = ALPHA / math.sqrt(4000 * WIDTH)
    assert 0.999 * bound < float(found.abs().max()) <= bound
    assert float(found.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert float(found.mean()) == pytest.approx(0, abs=0.01 * bound)


def test_parity_with_transformers_and_trl() -> None:
    """Their hook on a batch without padding, where both mean the same: the same bound, the same spread."""
    from transformers.integrations.neftune import activate_neftune

    model: Any = Model()
    activate_neftune(model, ALPHA)
    theirs = model.table(torch.zeros(3, 1000, dtype=torch.int64))
    ours = torch.stack(noise_of(0, [0, 1, 2], [1000] * 3))
    assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=1e-3)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.01)


def test_samples_of_a_packed_row_get_what_they_get_in_rows_of_their_own() -> None:
    lengths = [9, 5, 1]
    model = Model()
    with EmbeddingNoise(model, ALPHA, 1, packed=True).on(3, [2, 7, 9], lengths):
        packed = model.table(torch.zeros(1, sum(lengths), dtype=torch.int64))[0]
    rows = [row[:length] for row, length in zip(noise_of(3, [2, 7, 9], lengths), lengths, strict=True)]
    assert torch.equal(packed, torch.cat(rows))


def test_it_depends_on_seed_step_and_sample_and_on_no_neighbour() -> None:
    alone, others = noise_of(3, [7], [5])[0], noise_of(3, [2, 7, 9], [9, 5, 1])
    assert torch.equal(alone[:5], others[1][:5])
    assert bool(others[1][5:].eq(0).all()), "padding has none"
    for different in (noise_of(4, [7], [5]), noise_of(3, [8], [5]), noise_of(3, [7], [5], seed=2)):
        assert not torch.equal(alone, different[0])


def test_it_is_gone_when_it_is_off() -> None:
    model = Model()
    noise = EmbeddingNoise(model, ALPHA, 1)
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    with noise.on(0, [0], [4]):
        assert float(model.table(tokens).abs().max()) > 0
    assert float(model.table(tokens).abs().max()) == 0
    with noise.on(0, [], []):  # a dummy
        assert float(model.table(tokens).abs().max()) == 0


def test_it_has_the_embeddings_dtype() -> None:
    model = Model().bfloat16()
    with EmbeddingNoise(model, ALPHA, 1).on(0, [0], [4]):
        assert model.table(torch.zeros(1, 4, dtype=torch.int64)).dtype == torch.bfloat16
