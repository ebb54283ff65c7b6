"""What the metrics mean, by their names in metrics.jsonl, in W&B and in the report. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


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
    "val/exact_match": Known("Exact match", "Answers equal to the row's: case, punctuation and articles aside.", "up"),
    "val/f1": Known("F1 of words", "Words that an answer and the row's have in common.", "up"),
    "val/rouge1": Known("ROUGE-1", "Words in common, F-measure.", "up"),
    "val/rouge2": Known("ROUGE-2", "Pairs of words in common, F-measure.", "up"),
    "val/rougeL": Known("ROUGE-L", "Longest common sequence of words, F-measure.", "up"),
    "val/rougeLsum": Known("ROUGE-Lsum", "ROUGE-L line by line.", "up"),
    "val/bleu": Known("BLEU", "Of all answers together, 0 to 100.", "up"),
    "val/chrf": Known("chrF", "Pieces of words in common, 0 to 100.", "up"),
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


def better(name: str) -> str:
    """ "up", "down" or "" where neither is better by itself."""
    return KNOWN[name].better if name in KNOWN else ""
