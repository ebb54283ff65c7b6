"""The controller holds references and small numbers: its memory does not grow with the batch."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.e2e.conftest import SFT, Start, lines

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def memory_and_tokens(folder: Path) -> tuple[float, float]:
    """The driver's resident bytes after the last steps, and tokens of a step."""
    train = [line for line in lines(folder, "metrics") if line["split"] == "train"]
    return median(line["memory/driver_rss_bytes"] for line in train[-3:]), train[-1]["num_tokens"] / len(train)


@pytest.mark.slow
def test_ten_times_the_tokens_leave_the_drivers_memory_as_it_is(start: Start) -> None:
    found = {}
    for size in (16, 160):
        words = (f"train.global_batch_size={size}", "data.train.0.limit=512", "tracking.wandb.mode=disabled")
        verb = start(*SFT, *words, folder=f"batch-{size}")
        assert verb.end() == 0, verb.output
        found[size] = memory_and_tokens(verb.folder)
    (small, few), (large, many) = found[16], found[160]
    print(f"driver: {small / 1e6:.1f} MB at {few:.0f} tokens a step, {large / 1e6:.1f} MB at {many:.0f}")
    assert many > 9 * few
    assert abs(large - small) < 0.05 * small
