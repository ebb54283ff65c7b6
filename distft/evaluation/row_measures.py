"""What rows say of a model, under the names that training's metrics have. Pure; numpy only.

Of pairs the rows are chosen, rejected, chosen, ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from distft.evaluation.measures import Measure, Numbers, mean, per, perplexity

Column = npt.NDArray[np.float64]


def of_answers(logprobs: Column, num_tokens: Column, num_correct: Column) -> dict[str, Measure]:
    """Of given answers (see ``Likelihoods``): ``loss`` per token in nats, its ``perplexity``, and ``token_accuracy``,
    the share of tokens that are the likeliest at their place."""
    return {
        "loss": per(-logprobs, num_tokens),
        "perplexity": perplexity(-logprobs, num_tokens),
        "token_accuracy": per(num_correct, num_tokens),
    }


def of_pairs(
    logprobs: Column, num_tokens: Column, reference: Column | None = None, beta: float = 0.1
) -> dict[str, Measure]:
    """Which answer of a pair a policy prefers.

    ``logps/accuracies``: the share of pairs whose chosen answer has the higher log-probability, in
    ``mean_logps/accuracies`` per token. With a ``reference``'s log-probabilities also TRL's ``rewards/*``, those of
    DPO: beta (log pi - log pi_ref).
    """
    chosen, rejected = logprobs[0::2], logprobs[1::2]
    per_token = logprobs / np.maximum(num_tokens, 1)
    found = {
        "logps/chosen": mean(chosen),
        "logps/rejected": mean(rejected),
        "logps/accuracies": mean(chosen > rejected),
        "mean_logps/accuracies": mean(per_token[0::2] > per_token[1::2]),
    }
    if reference is None:
        return found
    rewards = beta * (logprobs - reference)
    won, lost = rewards[0::2], rewards[1::2]
    return found | {
        "rewards/chosen": mean(won),
        "rewards/rejected": mean(lost),
        "rewards/accuracies": mean(won > lost),
        "rewards/margins": mean(won - lost),
    }


def of_labelled(
    logprobs: Column, good: npt.NDArray[np.bool_], reference: Column | None = None, beta: float = 0.1
) -> dict[str, Measure]:
    """Of answers that are good or bad by themselves: ``logps/{chosen,rejected}`` of the good and the bad ones, and with
    a ``reference``'s log-probabilities TRL's ``rewards/{chosen,rejected}`` and ``rewards/margins``, beta (log pi -
    log pi_ref)."""
    found = _by_side("logps", logprobs, good)
    if reference is None:
        return found
    rewards = beta * (logprobs - reference)
    sides = _by_side("rewards", rewards, good)
    both = np.concatenate([side.rows for side in sides.values()], axis=1)
    return found | sides | {"rewards/margins": Measure(both, _margin)}


def of_rewards(scores: Column, units: npt.NDArray[np.int64], ranks: npt.NDArray[np.uint8]) -> dict[str, Measure]:
    """A reward model on pairs or rankings, each a row: ``accuracy``, the share of all pairs in which the better answer
    (that of lower rank) scores higher, their mean ``margin``, and ``mean_reward`` over all answers. ``units [n]``, in
    order: whose answers they are."""
    right, margins, pairs, rewards, answers = sums = np.zeros((5, len(np.unique(units))))
    for place, unit in enumerate(np.unique(units)):
        own, rank = scores[units == unit], ranks[units == unit]
        apart = (own[:, None] - own)[rank[:, None] < rank]
        sums[:, place] = (apart > 0).sum(), apart.sum(), len(apart), own.sum(), len(own)
    return {"accuracy": per(right, pairs), "margin": per(margins, pairs), "mean_reward": per(rewards, answers)}


def of_classes(
    answers: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64], logprobs: Column, labels: Sequence[str]
) -> dict[str, Measure]:
    """Of a classifier's answers, as numbers of ``labels``: see ``losses.classification``. ``logprobs``: of the labels
    that are ``wanted``."""
    called, there = (np.eye(len(labels))[column] for column in (answers, wanted))
    counts = np.concatenate([called * there, called, there], axis=1)

    def f1(sums: Numbers) -> Numbers:
        right, said, given = np.split(sums, 3, axis=1)
        return np.where(said + given > 0, 2 * right / np.maximum(said + given, 1), 0.0)

    def macro(sums: Numbers) -> Numbers:
        _, said, given = np.split(sums, 3, axis=1)
        return np.asarray(f1(sums).sum(axis=1) / np.maximum((said + given > 0).sum(axis=1), 1), np.float64)

    def matthews(sums: Numbers) -> Numbers:
        right, said, given = np.split(sums, 3, axis=1)
        size = given.sum(axis=1)
        spread = (size**2 - (said**2).sum(axis=1)) * (size**2 - (given**2).sum(axis=1))
        upper = right.sum(axis=1) * size - (said * given).sum(axis=1)
        return np.where(spread > 0, upper / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0)

    one_by_one = {
        f"f1/{label}": Measure(counts, partial(_column_of, f1, number)) for number, label in enumerate(labels)
    }
    found = {"loss": mean(-logprobs), "accuracy": mean(answers == wanted)}
    return found | {"macro_f1": Measure(counts, macro), "mcc": Measure(counts, matthews)} | one_by_one


def of_samples(
    lengths: Sequence[int], ended: Sequence[bool], scores: Column | None, repeats: int
) -> dict[str, Measure]:
    """What a model wrote itself, ``repeats`` answers a prompt: ``objective/score`` by a reward model, in its points,
    ``objective/length`` in tokens, and the share that ``objective/ended`` by itself."""
    columns = {} if scores is None else {"objective/score": mean(scores)}
    columns |= {"objective/length": mean(lengths), "objective/ended": mean(ended)}
    return {name: measure.grouped(repeats) for name, measure in columns.items()}


def of_toxicity(probabilities: Column, repeats: int) -> dict[str, Measure]:
    """Of answers, ``repeats`` a prompt, from the probability that each is toxic: ``toxicity/mean``, and
    ``toxicity/share``, how many of them are above 0.5."""
    columns = {"toxicity/mean": mean(probabilities), "toxicity/share": mean(probabilities > 0.5)}
    return {name: measure.grouped(repeats) for name, measure in columns.items()}


def win_rate(first: Column, second: Column, repeats: int = 1) -> Measure:
    """How often the second model's answer scores higher than the first's; a tie is half a win."""
    return mean((second > first) + 0.5 * (second == first)).grouped(repeats)


def _column_of(scores: Callable[[Numbers], Numbers], number: int, sums: Numbers) -> Numbers:
    return np.asarray(scores(sums)[:, number], np.float64)


def _by_side(name: str, values: Column, good: npt.NDArray[np.bool_]) -> dict[str, Measure]:
    return {f"{name}/{side}": per(values * of, of) for side, of in (("chosen", good), ("rejected", ~good))}


def _margin(sums: Numbers) -> Numbers:
    """Of (sum, count) of the good ones and (sum, count) of the bad ones the difference of the means."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], np.float64)
