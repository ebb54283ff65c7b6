"""Where the time of a step goes, and how fast it is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


class PhaseTimer:
    """Seconds by phase since the last report. Phases do not overlap: an inner one stops the outer's clock.

    ::

        with timer.phase("rollout"):
            ...
        timer.report()   # {"timing/rollout": 3.1, "timing/step": 3.4, "timing/idle_share": 0.09}
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = self._mark = clock()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the block, less that of phases inside it, under ``name``."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def report(self) -> dict[str, float]:
        """``timing/<phase>`` and ``timing/step`` (all of it) in seconds, ``timing/idle_share`` the part
        of the step outside of every phase; then starts over. A phase that is open goes on in the next.
        """
        self._settle()
        total = self._mark - self._since
        report = {f"timing/{name}": seconds for name, seconds in self._seconds.items()}
        idle = max(0.0, total - sum(self._seconds.values()))
        report["timing/step"] = total
        report["timing/idle_share"] = idle / total if total > 0 else 0.0
        self._seconds, self._since = {}, self._mark
        return report

    def _settle(self) -> None:
        now = self._clock()
        if self._open:
            name = self._open[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
        self._mark = now


@dataclass(frozen=True)
class Throughput:
    """Tokens per second of a step over ``num_gpus`` devices (ranks, on CPU).

    With ``flops_per_token`` (of a training token, forward and backward) and ``peak_flops`` of one
    device per second, model FLOPs utilisation too (Chowdhery et al. 2022, appendix B).
    """

    num_gpus: int
    flops_per_token: float | None = None
    peak_flops: float | None = None

    def report(self, num_tokens: float, seconds: float) -> dict[str, float]:
        """``perf/tokens_per_second``, ``perf/tokens_per_second_per_gpu`` and, where known, ``perf/mfu``."""
        rate = num_tokens / seconds if seconds > 0 else 0.0
        report = {"perf/tokens_per_second": rate, "perf/tokens_per_second_per_gpu": rate / max(1, self.num_gpus)}
        if self.flops_per_token and self.peak_flops:
            report["perf/mfu"] = rate * self.flops_per_token / (max(1, self.num_gpus) * self.peak_flops)
        return report


def training_flops_per_token(num_parameters: int, num_layers: int, hidden_size: int, context: float) -> float:
    """FLOPs of one token, forward and backward: 6 per parameter and 12 * layers * hidden * context
    for attention, the causal half not taken off (Chowdhery et al. 2022, appendix B). Embedding
    tables that are only looked up do not belong in ``num_parameters``.
    """
    return 6.0 * num_parameters + 12.0 * num_layers * hidden_size * context
