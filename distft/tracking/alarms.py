"""Alarms: what the metrics of a run look like when it goes wrong in a known way. Pure; each is raised once in a run.

Steps are compared as means: EARLY, the first five of a metric, and LATE, its last ten. The limits are wide: a run that
is well raises none, and a run that raises none may still be bad.

Repetition: of people's text 0.006 of all runs of four tokens are repeated ones, of the likeliest continuations of a
language model, which are of no use to anybody, 0.44 (Welleck et al. 2020, table 2); the limit lies between, and twice
the start, as answers may have to repeat. Rejected answers: supervised fine-tuning on the chosen ones alone raises both
(Hong et al. 2024, figure 3); the limits are those of forgetting, the other way round, and half of what the chosen
ones gained: what is more was learned of both alike. A source that goes its own way: those of overfitting and
forgetting, twice in a row.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from distft.tracking.metrics import Split
from distft.tracking.watchdog import Spike

NUM_EARLY: Final = 5
NUM_LATE: Final = 10
_COLLAPSED_SHARE, _COLLAPSED_NATS = 0.05, 0.05  # entropy of a token: of its start, and in nats
_SPIKE_TIMES, _SPIKE_NATS = 4.0, 5.0  # KL of a step over the median of those before
_FAST_KL, _FAST_STEPS = 0.2, 3  # nats a token by which one iteration moves the policy: 0.02 is usual
_DEAD_NORM, _DEAD_STEPS = 1e-7, 5
_FAR_NATS = 40.0  # KL of a response to the reference
_LENGTH_TIMES = 3.0
_REPEATED_SHARE, _REPEATED_TIMES = 0.3, 2.0
_OVERFIT_TIMES = 1.1
_FORGOTTEN_TIMES, _FORGOTTEN_NATS = 1.1, 0.1  # loss of general text over its start
_UNLEARNED_SHARE, _UNLEARNED_NATS = 0.2, 5.0
_SAME_AT_LEAST = 50  # steps after which a loss should be lower

SCORES, KL, LENGTH = "objective/scores", "objective/kl", "rollout/response_length"
ENTROPY, STEP_KL, NORM = "objective/token_entropy", "policy/approxkl_avg", "grad_norm"
CHOSEN, REJECTED, LOSS, GENERAL = "logps/chosen", "logps/rejected", "loss", "val/general_loss"
REPETITION, REJECTED_LOSS, OF_A_SOURCE = "objective/repetition", "val/rejected_loss", "loss_by_source/"
SKIPPED_STEPS: Final = "skipped_steps"


@dataclass(frozen=True)
class Alarm:
    """``said``: what was seen, with its numbers. ``do``: what helps."""

    name: str
    said: str
    do: str


@dataclass
class _Series:
    """A metric so far: its first values, its last ones, how many there were, and the lowest."""

    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=NUM_LATE + 1))
    count: int = 0
    lowest: float = float("inf")

    def add(self, value: float) -> None:
        if len(self.first) < NUM_EARLY:
            self.first.append(value)
        self.last.append(value)
        self.count += 1
        self.lowest = min(self.lowest, value)

    @property
    def has_both(self) -> bool:
        return self.count >= NUM_EARLY + NUM_LATE

    @property
    def early(self) -> float:
        return statistics.fmean(self.first)

    @property
    def late(self) -> float:
        return statistics.fmean(list(self.last)[-NUM_LATE:])


class Watch:
    """Looks at every line of metrics, each once."""

    def __init__(self) -> None:
        self._series: dict[tuple[Split, str], _Series] = {}
        self._raised: set[str] = set()

    def observe(self, split: Split, values: Mapping[str, float | None], *, is_end: bool = False) -> list[Alarm]:
        """The alarms that this line raises; ``is_end``: it is the run's last step. Values that are no numbers are
        passed over: the loops look after those."""
        for name, value in values.items():
            if isinstance(value, int | float) and value == value and abs(value) != float("inf"):
                self._series.setdefault((split, name), _Series()).add(value)
        rules = _OF_TRAINING if split == "train" else _OF_EVALUATION
        found = [alarm for rule in rules for alarm in rule(self)]
        if split == "train" and is_end:
            found += _no_progress(self)
        new = [alarm for alarm in found if alarm.name not in self._raised]
        self._raised.update(alarm.name for alarm in new)
        return new

    def of(self, name: str, split: Split = "train") -> _Series:
        """A metric so far; empty where it was never logged."""
        return self._series.get((split, name), _Series())

    def sources(self) -> Iterator[tuple[str, _Series]]:
        """The held-out loss of each source, where there are several."""
        for (split, name), series in self._series.items():
            if split == "eval" and name.startswith(OF_A_SOURCE):
                yield name.removeprefix(OF_A_SOURCE), series


def of_spike(spike: Spike) -> Alarm:
    """The alarm that a spike or a divergence raises."""
    if spike.kind == "divergence":
        return Alarm(
            spike.name, spike.said,
            "a lower optimizer.learning_rate or max_grad_norm, more optimizer.warmup_steps; begin again with "
            "checkpoint.resume=never, or from a checkpoint of before",
        )  # fmt: skip
    return Alarm(
        spike.name,
        spike.said,
        "look at the batch in failed_steps/ (distft replay RUN STEP runs it again) for rows unlike the others; if it "
        "does not pass by itself, a lower optimizer.learning_rate or max_grad_norm, or recovery.rollback=2, which goes "
        "back before it and passes over its rows",
    )


def _skipped_steps(watch: Watch) -> Iterator[Alarm]:
    counts = {
        name: watch.of(name).last[-1] for name in (SKIPPED_STEPS, f"value/{SKIPPED_STEPS}") if watch.of(name).last
    }
    if any(counts.values()):
        yield Alarm(
            "steps left out",
            f"the loss or the gradient of optimizer steps was no number: {sum(counts.values()):g} so far",
            "look at the batch in failed_steps/ (distft replay RUN STEP runs it again) for a row unlike the others; "
            "else a lower optimizer.learning_rate or max_grad_norm, or models.<role>.dtype=float32",
        )


def _entropy_collapse(watch: Watch) -> Iterator[Alarm]:
    entropy = watch.of(ENTROPY)
    if entropy.has_both and entropy.late < min(_COLLAPSED_NATS, _COLLAPSED_SHARE * entropy.early):
        yield Alarm(
            "entropy collapse",
            f"the entropy of a token fell from {entropy.early:.3g} to {entropy.late:.3g} nats",
            "a lower optimizer.learning_rate, a higher algorithm.kl_coef, or algorithm.entropy_coef above 0",
        )


def _kl_spike(watch: Watch) -> Iterator[Alarm]:
    kl = watch.of(KL)
    if kl.count > NUM_LATE:
        *before, now = kl.last
        usual = statistics.median(before)
        if now > max(_SPIKE_TIMES * usual, usual + _SPIKE_NATS):
            yield Alarm(
                "KL spike", f"the KL to the reference jumped from {usual:.3g} to {now:.3g} nats in a step",
                "a lower optimizer.learning_rate or max_grad_norm; algorithm.target_kl ends such an update early",
            )  # fmt: skip


def _update_too_fast(watch: Watch) -> Iterator[Alarm]:
    moved = list(watch.of(STEP_KL).last)[-_FAST_STEPS:]
    if len(moved) == _FAST_STEPS and min(moved) > _FAST_KL:
        yield Alarm(
            "updates too large", f"an iteration moves the policy by {moved[-1]:.3g} nats a token; 0.02 is usual",
            "a lower optimizer.learning_rate, fewer algorithm.epochs, or algorithm.target_kl",
        )  # fmt: skip


def _dead_gradients(watch: Watch) -> Iterator[Alarm]:
    norms = list(watch.of(NORM).last)[-_DEAD_STEPS:]
    if len(norms) == _DEAD_STEPS and max(norms) < _DEAD_NORM:
        yield Alarm(
            "dead gradients", f"the gradient was zero for {_DEAD_STEPS} steps: nothing is learned",
            "look at distft data (are tokens trained?) and, with a rule for a reward, whether all scores are the same",
        )  # fmt: skip


def _repeats(repeated: _Series) -> bool:
    return repeated.has_both and repeated.late > max(_REPEATED_SHARE, _REPEATED_TIMES * repeated.early)


def _repetition(watch: Watch) -> Iterator[Alarm]:
    repeated = watch.of(REPETITION)
    if _repeats(repeated):
        yield Alarm(
            "repetition",
            f"of the runs of four tokens of a response {repeated.late:.0%} are repeated ones, at first "
            f"{repeated.early:.0%}",
            "read samples.jsonl; a higher algorithm.kl_coef, a lower optimizer.learning_rate, a reward that tells such "
            "answers from good ones, fewer rollout.max_new_tokens where they do not end",
        )


def _reward_hacking(watch: Watch) -> Iterator[Alarm]:
    scores, kl, length, repeated = (watch.of(name) for name in (SCORES, KL, LENGTH, REPETITION))
    if not scores.has_both or scores.late <= scores.early:
        return
    found = []
    if kl.has_both and kl.late > _FAR_NATS:
        found.append(f"the KL to the reference to {kl.late:.3g} nats a response")
    if length.has_both and not 1 / _LENGTH_TIMES < length.late / max(length.early, 1e-9) < _LENGTH_TIMES:
        found.append(f"the length of responses from {length.early:.3g} to {length.late:.3g} tokens")
    if _repeats(repeated):
        found.append(f"what they repeat from {repeated.early:.0%} to {repeated.late:.0%}")
    if found:
        yield Alarm(
            "reward hacking?",
            f"the score rose from {scores.early:.3g} to {scores.late:.3g}, and {' and '.join(found)}",
            "read samples.jsonl: does it say what is wanted? A higher algorithm.kl_coef, or a penalty on length",
        )  # fmt: skip


def _chosen_unlearned(watch: Watch) -> Iterator[Alarm]:
    """Of given answers: of sampled ones, which have scores, the chosen are others every time."""
    chosen, rejected = watch.of(CHOSEN), watch.of(REJECTED)
    if not (chosen.has_both and rejected.has_both) or watch.of(SCORES).count:
        return
    fall, other = chosen.early - chosen.late, rejected.early - rejected.late
    if fall > max(_UNLEARNED_NATS, _UNLEARNED_SHARE * abs(chosen.early)) and fall > other / 2:
        yield Alarm(
            "chosen answers are unlearned",
            f"the log-probability of the chosen answers fell from {chosen.early:.4g} to {chosen.late:.4g}, "
            f"that of the rejected by {other:.4g}",
            "a lower optimizer.learning_rate, a higher algorithm.beta, or algorithm.rpo_alpha (DPO)",
        )


def _overfitting(watch: Watch) -> Iterator[Alarm]:
    held_out, trained = watch.of(LOSS, "eval"), watch.of(LOSS)
    last = list(held_out.last)[-2:]
    if held_out.lowest <= 0 or held_out.count < 3 or min(last) <= _OVERFIT_TIMES * held_out.lowest:
        return
    if trained.has_both and trained.late < trained.early:
        yield Alarm(
            "overfitting",
            f"the held-out loss rose to {last[-1]:.4g} from {held_out.lowest:.4g}, while that of training fell to "
            f"{trained.late:.4g}",
            "fewer steps or epochs, more data, or the checkpoint with the lowest held-out loss (distft checkpoints)",
        )


def _forgetting(watch: Watch) -> Iterator[Alarm]:
    general = watch.of(GENERAL, "eval")
    if general.count < 2:
        return
    first, last = general.first[0], general.last[-1]
    if last > max(_FORGOTTEN_TIMES * first, first + _FORGOTTEN_NATS):
        yield Alarm(
            "forgetting", f"the loss of general text rose from {first:.4g} to {last:.4g} nats a token",
            "a lower optimizer.learning_rate, fewer steps, models.policy.peft.method=lora, or general rows mixed into "
            "data.train",
        )  # fmt: skip


def _rejected_learned(watch: Watch) -> Iterator[Alarm]:
    rejected, chosen = watch.of(REJECTED_LOSS, "eval"), watch.of(LOSS, "eval")
    if rejected.count < 2 or chosen.count < 2:
        return
    first, last = rejected.first[0], rejected.last[-1]
    fall, other = first - last, chosen.first[0] - chosen.last[-1]
    if fall > max((_FORGOTTEN_TIMES - 1) * first, _FORGOTTEN_NATS) and fall > other / 2:
        yield Alarm(
            "rejected answers are learned",
            f"the loss of the rejected answers fell from {first:.4g} to {last:.4g} nats a token, that of the chosen "
            f"by {other:.4g}",
            "imitation does not tell the two apart: go on from this model with a method that learns from both answers "
            "of a pair (distft/recipes/README.md lists them)",
        )


def _sources_apart(watch: Watch) -> Iterator[Alarm]:
    whole = watch.of(LOSS, "eval")
    if whole.count < 3 or whole.last[-1] >= whole.first[0]:
        return
    told = [
        f"{name} to {source.last[-1]:.4g} from {source.lowest:.4g}"
        for name, source in watch.sources()
        if source.count >= 3
        and min(list(source.last)[-2:]) > max(_OVERFIT_TIMES * source.lowest, source.lowest + _FORGOTTEN_NATS)
    ]
    if told:
        yield Alarm(
            "train and eval drift apart",
            f"the held-out loss fell to {whole.last[-1]:.4g}, but by source rose that of {', '.join(told)}",
            "more rows like those in data.train, or a greater weight of their source there; fewer steps; of rows that "
            "nothing is to be learned for, take them out of data.eval",
        )


def _no_progress(watch: Watch) -> Iterator[Alarm]:
    """At the end of training on given answers: of what samples the loss says nothing, and there are scores."""
    loss = watch.of(LOSS)
    if loss.count < _SAME_AT_LEAST or watch.of(SCORES).count:
        return
    noise = statistics.stdev(loss.last) / NUM_LATE**0.5
    if loss.late > loss.early - 2 * noise:
        yield Alarm(
            "underfitting", f"the loss ended at {loss.late:.4g}, where it began ({loss.early:.4g})",
            "a higher optimizer.learning_rate, more steps; distft data shows which tokens are trained",
        )  # fmt: skip


_Rule = Callable[[Watch], Iterator[Alarm]]
_OF_TRAINING: Final[tuple[_Rule, ...]] = (
    _skipped_steps, _entropy_collapse, _kl_spike, _update_too_fast, _dead_gradients, _reward_hacking, _repetition,
    _chosen_unlearned,
)  # fmt: skip
_OF_EVALUATION: Final[tuple[_Rule, ...]] = (_overfitting, _forgetting, _rejected_learned, _sources_apart)
