"""Which metric is a chart, in which order, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from distft.report.curves import Curve, Ledger, thinned

_MAX_NAMED_STEPS = 8


class Known(NamedTuple):
    """A metric worth a look: ``better`` "up" or "down" where that is so by itself; ``about``: how to read it."""

    title: str
    about: str = ""
    better: str = ""


# In the order of the page. What is not here is drawn below, on request.
KNOWN: Mapping[str, Known] = {
    "objective/scores": Known("Score", "Of the responses of each iteration, by the reward model or rules.", "up"),
    "objective/score": Known("Score, held out", "Of responses to held-out prompts.", "up"),
    "reward": Known("Reward", better="up"),
    "objective/rlhf_reward": Known("Score less the KL penalty", "What the policy is trained for.", "up"),
    "objective/kl": Known("KL to the reference", "Nats a response. Score up while this runs away: reward hacking."),
    "kl": Known("KL to the reference"),
    "policy/approxkl_avg": Known("KL of an update", "Between the policy before and after; far above 0.02 is too fast."),
    "loss": Known("Loss", "", "down"),
    "nll_loss": Known("Loss per token of the answers", "", "down"),
    "loss/policy_avg": Known("Policy loss", "Has no target: it hovers around zero."),
    "loss/value_avg": Known("Value loss", "", "down"),
    "accuracy": Known("Accuracy of pairs", "How often the better answer scores higher; 0.5 is chance.", "up"),
    "rewards/accuracies": Known("Accuracy of pairs", "How often the chosen answer gains more; 0.5 is chance.", "up"),
    "margin": Known("Margin of pairs", "Score of the better answer less that of the other.", "up"),
    "rewards/margins": Known("Margin of pairs", "Reward of chosen less that of rejected.", "up"),
    "rewards/chosen": Known("Reward of chosen"),
    "rewards/rejected": Known("Reward of rejected"),
    "logps/chosen": Known("Log-probability of chosen", "Below its start: the chosen answers are unlearned."),
    "logps/rejected": Known("Log-probability of rejected"),
    "objective/token_entropy": Known("Entropy of a token", "A fall to zero: the policy says one thing only."),
    "entropy": Known("Entropy of a token", "Nats; a fall to zero says that the model has become certain."),
    "rollout/response_length": Known("Length of responses", "Tokens."),
    "objective/length": Known("Length of responses, held out", "Tokens."),
    "val/explained_variance": Known("Explained variance of values", "1 is perfect; below 0 is worse than a constant."),
    "policy/clipfrac_avg": Known("Clipped share of tokens", "Above 0.3: the steps are too large."),
    "grad_norm": Known("Gradient norm", "Before clipping."),
    "learning_rate": Known("Learning rate"),
    "perf/tokens_per_second": Known("Tokens a second"),
}  # fmt: skip
_COUNTS = ("num_tokens", "epoch")  # they only say how far the run was


def better(name: str) -> str:
    """ "up", "down" or "" where neither is better by itself."""
    return KNOWN[name].better if name in KNOWN else ""


class Source(NamedTuple):
    """A run's curves under the name that a legend has; empty where there is one run."""

    name: str
    ledger: Ledger


def charts(sources: Sequence[Source]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The charts that everyone wants, and the others, as the page's script takes them: ``name, title, about, note,
    series``; a series has ``label``, ``split``, ``run`` (its number), ``x`` and ``y``.
    """
    names = dict.fromkeys(
        name for source in sources for split in source.ledger.curves for name in sorted(source.ledger.of(split))
    )
    first = [name for name in KNOWN if name in names]
    others = sorted(name for name in names if name not in KNOWN and name not in _COUNTS)
    return [_chart(name, sources) for name in first], [_chart(name, sources) for name in others]


def _chart(name: str, sources: Sequence[Source]) -> dict[str, Any]:
    known = KNOWN.get(name, Known(name))
    series, bad = [], []
    for number, source in enumerate(sources):
        for split, label in (("train", "training"), ("eval", "held out")):
            curve = source.ledger.of(split).get(name)
            if curve is None:
                continue
            x, y = thinned(curve.x, curve.y)
            said = f"{source.name}, {label}" if source.name else label
            series.append({"label": said, "split": split, "run": number, "x": x, "y": y})
            bad += [f"{said}: {_steps(curve)}"] if curve.not_finite else []
    note = f"Not a number, or infinite, in {'; '.join(bad)}." if bad else ""
    return {"name": name, "title": known.title, "about": known.about, "note": note, "series": series}


def _steps(curve: Curve) -> str:
    found = curve.not_finite
    more = f" and {len(found) - _MAX_NAMED_STEPS:,} more" if len(found) > _MAX_NAMED_STEPS else ""
    return f"steps {_listed(found[:_MAX_NAMED_STEPS])}{more}" if len(found) > 1 else f"step {found[0]:,}"


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(f"{number:,}" for number in numbers)
