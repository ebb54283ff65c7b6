from __future__ import annotations

import pytest
import torch

from distft.algorithms.masking import Moments, masked_sum, moments, segment_sum, whiten

NAN = float("nan")


def test_a_sum_skips_nan_in_value_and_gradient() -> None:
    values = torch.tensor([1.0, NAN, 3.0], requires_grad=True)
    mask = torch.tensor([True, False, True])
    total = masked_sum(values, mask)
    total.backward()
    assert total.item() == 4.0
    assert values.grad is not None
    assert values.grad.tolist() == [1.0, 0.0, 1.0]


def test_empty_mask_gives_zero_and_a_connected_graph() -> None:
    values = torch.tensor([NAN, 2.0], requires_grad=True)
    total = masked_sum(values, torch.zeros(2, dtype=torch.bool))
    total.backward()
    assert total.item() == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]


def test_segment_sum_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, NAN, 4.0, 5.0])
    segments = torch.tensor([0, 2, 2, 0, 2])
    mask = torch.tensor([True, True, False, True, True])
    assert segment_sum(values, segments, 4, mask).tolist() == [5.0, 0.0, 7.0, 0.0]


def test_merged_moments_are_those_of_everything() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3 + 100
    mask = torch.arange(50) % 3 != 0
    parts = Moments()
    for start, stop in ((0, 7), (7, 7), (7, 8), (8, 50)):
        parts = parts.merge(moments(values[start:stop], mask[start:stop]))
    chosen = values[mask].double()
    assert parts.count == len(chosen)
    assert parts.mean == pytest.approx(chosen.mean().item(), rel=1e-12)
    assert parts.variance == pytest.approx(chosen.var().item(), rel=1e-10)


def test_whitening_is_global_and_masked() -> None:
    values = torch.tensor([[1.0, 2.0, NAN], [3.0, NAN, 6.0]])
    mask = ~values.isnan()
    over = moments(values, mask)
    white = whiten(values, mask, over)
    # Mean 3, unbiased variance (4 + 1 + 0 + 9) / 3.
    expected = torch.tensor([[-2.0, -1.0, 0.0], [0.0, 0.0, 3.0]]) / (14 / 3) ** 0.5
    torch.testing.assert_close(white, expected)
    by_rows = torch.cat([whiten(row, row_mask, over) for row, row_mask in zip(values, mask, strict=True)])
    torch.testing.assert_close(by_rows, white.flatten())
    scaled = whiten(values, mask, over, shift_mean=False)
    torch.testing.assert_close(scaled[mask], white[mask] + 3.0)
    assert (scaled[~mask] == 0).all()


@pytest.mark.parametrize("values", [[5.0], [2.0, 2.0, 2.0]])
def test_values_without_spread_whiten_to_zero(values: list[float]) -> None:
    tensor = torch.tensor(values)
    mask = torch.ones_like(tensor, dtype=torch.bool)
    assert whiten(tensor, mask, moments(tensor, mask)).tolist() == [0.0] * len(values)
