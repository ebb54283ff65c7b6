"""A language model's head with log-probabilities, forward and backward: fused beside plain. Peak bytes and seconds.

    python -m tests.benchmarks.head [--tokens 1024] [--width 256] [--vocab 50257] [--dtype float32]

One thread; seconds of processor time, the best of three. Prints a table (Markdown).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from distft.algorithms.linear_logprobs import linear_logprobs
from distft.algorithms.logprobs import token_logprobs
from tests.harness.torch_memory import most_held

OUTPUTS = ("logprobs", "entropy")


def seconds(step: Callable[[], None]) -> float:
    """The best of three."""
    found = []
    for _ in range(3):
        started = time.process_time()
        step()
        found.append(time.process_time() - started)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("tokens", 1024), ("width", 256), ("vocab", 50257)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", default="float32")
    told = parser.parse_args()
    torch.set_num_threads(1)
    dtype = getattr(torch, told.dtype)
    hidden = torch.randn(told.tokens, told.width).to(dtype).requires_grad_()
    weight = torch.randn(told.vocab, told.width).mul_(told.width**-0.5).to(dtype).requires_grad_()
    targets = torch.randint(0, told.vocab, (told.tokens,))

    def plain() -> dict[str, Tensor]:
        return token_logprobs(functional.linear(hidden, weight), targets, outputs=OUTPUTS)

    def fused() -> dict[str, Tensor]:
        return linear_logprobs(hidden, weight, targets, outputs=OUTPUTS)

    print("| | peak MiB | seconds |", "|---|---|---|", sep="\n")
    for name, path in (("plain", plain), ("fused", fused)):

        def step(path: Callable[[], dict[str, Tensor]] = path) -> None:
            hidden.grad = weight.grad = None
            path()["logprobs"].mean().backward()

        print(f"| {name} | {most_held(step) / 2**20:.0f} | {seconds(step):.2f} |", flush=True)


if __name__ == "__main__":
    main()
