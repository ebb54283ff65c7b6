"""How long one iteration's schedule takes the driver of a large run, and how evenly it is spread.

``python -m tests.benchmarks.schedule [--samples 1000000] [--ranks 1024]``: lengths lognormal around 245 tokens, cut at
2,048, micro-batches of 16,384. Once as few micro-batches as fit, once weighed against what one more costs.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from distft.experience.schedule import schedule

MAX_TOKENS = 16_384
MICRO_BATCH_COST = 2_000  # tokens


def main() -> None:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=1_024)
    asked = parser.parse_args()
    drawn = np.random.default_rng(0).lognormal(5.5, 0.8, asked.samples)
    lengths = np.clip(drawn, 16, 2_048).astype(np.int64)
    for cost in (None, MICRO_BATCH_COST):
        start = time.perf_counter()
        found = schedule(lengths, np.arange(asked.samples), asked.ranks, MAX_TOKENS, micro_batch_cost=cost)
        seconds = time.perf_counter() - start
        print(
            f"{asked.samples:,} samples on {asked.ranks:,} ranks, {'fewest' if cost is None else 'cheapest'}: "
            f"{seconds:.1f} s, imbalance {found.imbalance:.2%}, padding {found.padding_fraction:.2%}"
        )


if __name__ == "__main__":
    main()
