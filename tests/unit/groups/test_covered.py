"""In how much of the time some group computed."""

from __future__ import annotations

import pytest

from distft.groups.ray_handles import covered


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(0.0, 2.0), (3.0, 4.0)], 3.0),
        ([(0.0, 2.0), (1.0, 4.0)], 4.0),
        ([(0.0, 5.0), (1.0, 2.0), (4.0, 6.0)], 6.0),
    ],
)
def test_overlaps_count_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans) == pytest.approx(seconds)
