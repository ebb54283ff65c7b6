"""Loss spikes and divergence, by the logged loss and gradient norm of each trained role. Pure.

A metric's *usual* values are those that belong to no spike, finite ones, none of the learning rate's warm-up, gradient
norms above zero; the last WINDOW + NEAR (64 + 9) count. With y = log x where all are above zero, else y = x, the *rise*
of a step is r = y - median(the NEAR usual y before it), so that a metric may fall or grow as training goes on. Of the
WINDOW last rises of usual values, m is the median, and s = max(1.4826 median|r - m|, FLOOR) their spread, which is the
standard deviation of normally distributed ones. From MIN_USUAL (25) usual values on

spike        begins where r - max(0, m) > LIMIT s and r > 2 max(0, usual r): further than LIMIT (8) spreads above
             what it comes from and what is usual, and twice as far as any of the usual ones. FLOOR (0.03) lets a
             metric that hardly moves rise by a quarter (exp(8 x 0.03) = 1.27; where y = x, by 0.24).
confirmed    where the next step still has r - max(0, m) > LIMIT s / 2, over the same values. Else it has passed by
             itself, as the loss of a strange batch does whose gradient was clipped.
over         where it is below that again. What lasts for LASTS (20) steps is usual from then on.
divergence   of a loss that training on given answers lowers: the last DIVERGED_AFTER (20) of them are above
             L0 + max(|L0| / 2, LIMIT s0), with median L0 and spread s0 (as above, of x itself) of the first START (10).

Logarithms, as norms and losses near zero have long tails: values that are independent and log-normal, exponential or
normal are no spikes (``tests/unit/tracking/test_watchdog.py``).
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from distft.config.training import DIVERGED_AFTER

WINDOW: Final = 64
NEAR: Final = 9
MIN_USUAL: Final = 25
LIMIT: Final = 8.0
FLOOR: Final = 0.03
LASTS: Final = 20
START: Final = 10
LOSS: Final = "loss"
GRAD_NORM: Final = "grad_norm"


@dataclass(frozen=True)
class Spike:
    """``role``'s ``metric`` was ``value`` at ``step``, where ``usual`` is; ``seen``: the step that says so, later than
    ``step`` where it is ``confirmed``. Of a divergence ``step`` is the first of the row, and ``usual`` the start."""

    kind: Literal["spike", "divergence"]
    step: int
    role: str
    metric: str
    value: float
    usual: float
    seen: int
    confirmed: bool = False

    @property
    def is_new(self) -> bool:
        """Whether nothing has been said of it."""
        return self.kind == "divergence" or not self.confirmed

    @property
    def name(self) -> str:
        """``loss spike``, ``gradient spike`` or ``divergence``."""
        if self.kind == "divergence":
            return self.kind
        return "loss spike" if self.metric == LOSS else "gradient spike"

    @property
    def said(self) -> str:
        """What was seen, with its numbers."""
        what = f"the {'loss' if self.metric == LOSS else 'gradient norm'} of the {self.role}"
        if self.kind == "divergence":
            return f"{what} has been far above its start, {self.usual:.4g}, since step {self.step} ({self.value:.4g})"
        return f"{what} jumped to {self.value:.4g}; {self.usual:.4g} is usual"


class Watchdog:
    """Looks at every line of training, each once and in their order. ``role`` is the one whose metrics are logged
    plain, ``others`` those whose metrics are ``<role>/loss``; ``warm_up``: optimizer steps that are passed over;
    ``falls``: whether training is to lower the loss, so that one far above its start is a divergence."""

    def __init__(
        self, role: str = "policy", others: Sequence[str] = (), *, warm_up: int = 0, falls: bool = True
    ) -> None:
        roles = [("", role), *((f"{other}/", other) for other in others)]
        self._series = [
            (f"{prefix}{metric}", _Series(name, metric)) for prefix, name in roles for metric in (LOSS, GRAD_NORM)
        ]
        self._falls = _Falls(role) if falls else None
        self._warm_up = warm_up

    def observe(self, step: int, values: Mapping[str, object]) -> list[Spike]:
        """What begins with the line of this step, and what it confirms."""
        found = []
        warm = _number(values, "optimizer_steps") or math.inf
        for name, series in self._series:
            value = _number(values, name)
            if value is not None and warm > self._warm_up and (series.metric != GRAD_NORM or value > 0):
                found.append(series.add(step, value))
        loss = _number(values, LOSS)
        if self._falls is not None and loss is not None:
            found.append(self._falls.add(step, loss))
        return [one for one in found if one is not None]


@dataclass
class _Series:
    """One metric of a role: its usual values, and the spike under way."""

    role: str
    metric: str
    usual: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW + NEAR))
    under_way: Spike | None = None
    lasts: int = 0

    def add(self, step: int, value: float) -> Spike | None:
        """The spike that begins, or is confirmed."""
        if len(self.usual) < MIN_USUAL:
            self.usual.append(value)
            return None
        rise, spread, furthest = risen(value, self.usual)
        if self.under_way is None:
            if rise.above > LIMIT * spread and rise.itself > 2 * furthest:
                usual = statistics.median(list(self.usual)[-NEAR:])
                self.under_way, self.lasts = Spike("spike", step, self.role, self.metric, value, usual, step), 1
                return self.under_way
        elif rise.above > LIMIT * spread / 2:
            self.lasts += 1
            begun = self.under_way
            if self.lasts == LASTS:
                self.usual.clear()
                self.under_way = None
            return replace(begun, seen=step, confirmed=True) if self.lasts == 2 else None
        self.under_way = None
        self.usual.append(value)
        return None


@dataclass
class _Falls:
    """The loss of training on given answers: its start, and how many steps in a ``row``, from the ``first`` of them on,
    it has been far above that."""

    role: str
    start: list[float] = field(default_factory=list)
    row: int = 0
    first: int = 0

    def add(self, step: int, value: float) -> Spike | None:
        """The divergence that the row has become."""
        if len(self.start) < START:
            self.start.append(value)
            return None
        usual, spread = _middle(self.start)
        if value <= usual + max(abs(usual) / 2, LIMIT * spread):
            self.row = 0
            return None
        self.row += 1
        if self.row == 1:
            self.first = step
        if self.row != DIVERGED_AFTER:
            return None
        return Spike("divergence", self.first, self.role, LOSS, value, usual, step, confirmed=True)


class Rise(NamedTuple):
    """How far a value lies above those right before it: ``itself``, and ``above`` what rises usually are, or 0."""

    itself: float
    above: float


def risen(value: float, usual: Sequence[float]) -> tuple[Rise, float, float]:
    """The rise of a value behind the usual ones, MIN_USUAL or more; the spread of their own, and the largest of those,
    0 at least; as logarithms where all are above zero."""
    values = [*usual, value]
    if min(values) > 0:
        values = [math.log(one) for one in values]
    *rises, rise = (
        values[at] - sorted(values[at - NEAR : at])[NEAR // 2] for at in range(NEAR, len(values))
    )  # fmt: skip
    middle, spread = _middle(rises)
    return Rise(rise, rise - max(0.0, middle)), spread, max(0.0, *rises)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    """The median, and what would be the standard deviation of normally distributed values with their spread."""
    middle = statistics.median(values)
    return middle, max(1.4826 * statistics.median(abs(one - middle) for one in values), FLOOR)


def _number(values: Mapping[str, object], name: str) -> float | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
