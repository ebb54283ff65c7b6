"""What the metrics mean, by their names in metrics.jsonl, in W&B and in the report. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

# What is measured and not computed: different in every run.
_MEASURED = ("perf/", "memory/", "timing/", "rollout/tokens_per_second")
# Between 0 and 1, whatever happens.
_SHARES = (
    "accuracy", "accuracy/*", "adapters/changed", "clip_ratio/*", "completions/clipped_ratio", "f1/*", "first_wrong",
    "frac_reward_zero_std", "judge/*", "mrr", "objective/ended", "objective/repetition", "perf/busy/*",
    "perf/idle_fraction", "perf/mfu", "perf/padding_fraction", "policy/clipfrac_avg", "recall@*", "rewards/accuracies",
    "rollout/ended_*", "rollout/filled", "rollout/importance_ess", "rollout/on_policy", "teacher_rest",
    "timing/idle_share", "toxicity/*", "val/clipfrac_avg", "val/exact_match", "val/f1", "val/rouge*",
)  # fmt: skip


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
    "mrr": Known("Mean reciprocal rank", "1 / the place of an anchor's positive; the more candidates, the less.", "up"),
    "recall@1": Known("Found first", "Share of anchors whose positive is the nearest of all candidates.", "up"),
    "first_wrong": Known("First wrong step found", "Share of answers, also where none is wrong.", "up"),
    "margin": Known("Margin of pairs", "Score of the better answer less that of the other.", "up"),
    "rewards/margins": Known("Margin of pairs", "Reward of chosen less that of rejected.", "up"),
    "rewards/chosen": Known("Reward of chosen"),
    "rewards/rejected": Known("Reward of rejected"),
    "logps/chosen": Known("Log-probability of chosen", "Below its start: the chosen answers are unlearned."),
    "logps/rejected": Known("Log-probability of rejected"),
    "val/general_loss": Known("Loss of general text", "Above its start: what was known is being forgotten.", "down"),
    "val/rejected_loss": Known("Loss of rejected answers", "Falls as the loss does: good and bad are learned alike."),
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
    "objective/repetition": Known("Repeated runs of four tokens", "Share of a response's; people's text: below 0.01."),
    "objective/length": Known("Length of responses, held out", "Tokens."),
    "val/explained_variance": Known("Explained variance of values", "1 is perfect; below 0 is worse than a constant."),
    "policy/clipfrac_avg": Known("Clipped share of tokens", "Above 0.3: the steps are too large."),
    "adapters/changed": Known(
        "Share changed by diff pruning", "Expected of gates that are drawn, counted once they are settled."
    ),
    "adapters/sparsity": Known(
        "Penalty of diff pruning", "The expected share, times its weight; no part of the loss that is shown."
    ),
    "adapters/rank": Known("Rank of the adapters", "What AdaLoRA's search has left, in the mean of all matrices."),
    "adapters/orthogonality": Known(
        "Penalty of AdaLoRA", "How far A and B are from orthogonal, weighted; no part of the loss that is shown."
    ),
    "grad_norm": Known("Gradient norm", "Before clipping."),
    "learning_rate": Known("Learning rate"),
    "perf/tokens_per_second": Known("Tokens a second"),
}  # fmt: skip


# The rest, exact names before patterns of names.
OTHERS: Mapping[str, Known] = {
    "epoch": Known("Epochs", "Passes over the training rows so far."),
    "optimizer_steps": Known("Optimizer steps so far", "Several an iteration where a batch is learned in parts."),
    "skipped_steps": Known(
        "Optimizer steps left out so far", "Loss or gradient was no number; not there where none was left out."
    ),
    "num_tokens": Known("Tokens so far", "Of everything trained on."),
    "perplexity": Known("Perplexity", "e to the loss per token.", "down"),
    "kl_coef": Known("KL coefficient", "Moves only where algorithm.kl_target is set."),
    "log_odds_chosen": Known("Log odds ratio", "Of chosen over rejected; rises.", "up"),
    "log_odds_ratio": Known("Log-sigmoid of the odds ratio", "Rises towards 0.", "up"),
    "mean_reward": Known("Mean reward of the answers", "Has no level of its own: only differences count."),
    "min_reward": Known("Lowest reward of a step"),
    "max_reward": Known("Highest reward of a step"),
    "loss_by_source/*": Known("Loss of a source's rows", "data.<list>.<number>.name, where there are several.", "down"),
    "teacher_rest": Known("Probability of what the teacher does not name", "Told as one: see algorithm.top_k."),
    "recall@5": Known("Found among the 5 nearest", "", "up"),
    "recall@10": Known("Found among the 10 nearest", "", "up"),
    "cosine/positive": Known("Cosine of anchor and positive", "Mean over anchors."),
    "cosine/others": Known("Cosine of anchor and others", "Near that of the positive: all texts look alike."),
    "reward_std": Known("Spread of rewards", "Over all answers of an iteration."),
    "frac_reward_zero_std": Known("Share of prompts whose answers are equal in score", "They teach nothing.", "down"),
    "logits/chosen": Known("Mean logit of chosen"),
    "logits/rejected": Known("Mean logit of rejected"),
    "objective/entropy": Known("Entropy of a response", "The sum over its tokens, estimated by -log pi, nats."),
    "objective/non_score_reward": Known("KL penalty of a response", "As it was subtracted."),
    "objective/scores_std": Known("Spread of the scores", "Over the responses of an iteration."),
    "objective/scores_margin": Known("Score of chosen less that of rejected", "Means over an iteration's pairs."),
    "pairs/learned": Known("Prompts whose best and worst answer are a pair"),
    "ptx/loss": Known("Loss per token of data.ptx", "Above its start: what was known is being forgotten.", "down"),
    "kept/learned": Known("Answers of an iteration that are learned", "0: nothing is trained."),
    "kept/score": Known("Score of those answers", "Above that of all: what choosing brought."),
    "pairs/ties": Known("Prompts whose answers are equal in score", "They are no pair and teach nothing.", "down"),
    "objective/score_std": Known("Spread of the scores, held out"),
    "objective/ended": Known("Share of answers that end by themselves", "Far below 1: rollout.max_new_tokens cuts."),
    "policy/entropy_avg": Known("Entropy of a token in the update"),
    "val/clipfrac_avg": Known("Clipped share of values"),
    "val/num_eos_tokens": Known("Responses that ended by themselves", "0: no stop token is learned."),
    "val/ratio": Known("Ratio of the policy to before", "Near 1."),
    "val/ratio_var": Known("Variance of that ratio", "Near 0."),
    "accuracy/*": Known("Accuracy of right steps, of wrong ones", "Of a process reward model.", "up"),
    "f1/*": Known("F1 of a label", "Of its precision and recall on rows; 1 is perfect.", "up"),
    "toxicity/mean": Known("Toxicity of the answers", "Of distft eval --toxicity: a label's mean probability."),
    "toxicity/share": Known("Share of toxic answers", "Whose probability is above 0.5."),
    "clip_ratio/*_mean": Known("Clipped share of tokens, below, above or both"),
    "completions/*": Known("Lengths of completions, and the share cut at the limit", "Tokens."),
    "rewards/*": Known("Mean of a reward function, server or one of several reward models, by its name"),
    "judge/unread/*": Known("Share of a judge's verdicts that is unreadable", "Above max_unread the run ends.", "down"),
    "judge/ties/*": Known("Share of a judge's comparisons that are ties", "Near 1: it tells answers apart no more."),
    "judge/by_order/*": Known("Share of comparisons by order alone", "First, or second, preferred both times.", "down"),
    "rollout/trainer_logprob_difference_*": Known(
        "Generator against trainer", "Nats of a sampled token: 1e-6 in float32, about 0.01 in bfloat16."
    ),
    "rollout/importance_ess": Known("Effective share of samples", "1: the generator is the trainer."),
    "routing/changed": Known(
        "Share of expert choices that replay kept", "Of (token, layer): the router would now choose otherwise."
    ),
    "rollout/staleness": Known("Iterations since the weights that sampled", "0 without overlap."),
    "rollout/tokens_per_second": Known("Tokens generated a second"),
    "rollout/on_policy": Known(
        "Steps whose prompts the policy answered itself",
        "1 or 0: the share is on_policy, or less where no prompt leaves room.",
    ),
    "rollout/turns": Known("Turns of the policy in a sample", "With rollout.environment."),
    "rollout/cut_fraction": Known(
        "Share of responses cut because the others had ended", "rollout.cut_tails; masked ones have length 0 elsewhere."
    ),
    "rollout/observation_length": Known("Tokens of an environment's words in a sample"),
    "rollout/ended_cut": Known("Share of samples that a turn's limit ended", "rollout.environment.max_turn_tokens."),
    "rollout/ended_max_turns": Known("Share of samples that the number of turns ended"),
    "rollout/ended_no_room": Known("Share of samples with no room for a further turn", "rollout.max_new_tokens."),
    "objective/turns": Known("Turns of the policy in a sample, held out"),
    "rollout/refills": Known("Times an iteration sampled anew"),
    "rollout/filled": Known("Share of the batch that was filled"),
    "value/*": Known("Of the value model: loss, gradient norm, learning rate, steps left out"),
    "perf/tokens_per_second_per_gpu": Known("Tokens a second and device"),
    "perf/mfu": Known("Model FLOPs over the peak of the cards", "0.4 to 0.55 is good."),
    "perf/padding_fraction": Known(
        "Share of padding",
        "Above 0.3: a higher train.max_tokens_per_rank; of a decoder, but not in contrastive, "
        "models.policy.engine.packed=true (of a reward model models.reward.engine.packed=true).",
        "down",
    ),
    "perf/imbalance": Known("Longest rank over the mean, less 1", "0 is even.", "down"),
    "perf/idle_fraction": Known("Share of a step in which no group computed", "", "down"),
    "perf/busy/*": Known("Share of a step in which ranks were at work", "By the nodes' clocks; mean over its ranks."),
    "timing/step": Known("Seconds of a step"),
    "timing/idle_share": Known("Share of a step outside of all phases", "", "down"),
    "timing/*": Known("Seconds of a step by phase, of which in wait and transfer"),
    "memory/*": Known("Bytes: of processes, and of GPUs at most, by role"),
}  # fmt: skip


def is_measured(name: str) -> bool:
    """Whether a metric is of the machine and the moment: no two runs agree in it."""
    return name.startswith(_MEASURED)


def is_share(name: str) -> bool:
    """Whether a metric lies between 0 and 1."""
    return any(fnmatchcase(name, pattern) for pattern in _SHARES)


def known(name: str) -> Known | None:
    """What is known of a metric: by its name, else by the first pattern that it fits."""
    exact = KNOWN.get(name) or OTHERS.get(name)
    return exact or next((about for pattern, about in OTHERS.items() if fnmatchcase(name, pattern)), None)


def directed() -> list[str]:
    """The names of the metrics that are better by being higher or lower."""
    return [name for names in (KNOWN, OTHERS) for name, about in names.items() if about.better]


def better(name: str) -> str:
    """ "up", "down" or "" where neither is better by itself."""
    found = known(name)
    return found.better if found else ""
