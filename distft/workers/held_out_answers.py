"""What a policy answers to held-out prompts: which rows it is asked, and what its answers have of the rows' own.

The rows are those that ``distft eval`` takes, so that both find the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distft.batches import Batch
from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.config.training import AnswerMetric
from distft.data.encode import Encoder
from distft.data.formats import Example, PromptExample, prompt_of
from distft.data.tokenized import TokenizedDataset
from distft.data.wanted import wanted_answer
from distft.workers.asked_rows import asked_rows, prompt_batch


def require_answers(recipe: Recipe, lists: Mapping[str, TokenizedDataset]) -> None:
    """Raises UserError where ``evaluation.metrics`` has nothing to hold answers against. Looks at the first row of each
    list that judges, before anything is trained."""
    for name, dataset in lists.items():
        if name == "train" or not recipe.evaluation.metrics or not dataset.num_units:
            continue
        [first] = dataset.rows([0])
        if not prompt_of(first):
            what = "a row is plain text: it has no prompt, so that no answer can be held against it"
            raise UserError(what, where=first.where, hint="remove evaluation.metrics, or give rows with prompts")
        if isinstance(first, PromptExample) and wanted_answer(first) is None:
            what = "the row has no answer that those of the policy could be held against"
            hint = "a column `answer` in data.eval and data.test, or remove evaluation.metrics"
            raise UserError(what, where=first.where, hint=hint)


def questions(examples: Sequence[Example], encoder: Encoder, positions: int | None, recipe: Recipe) -> Batch:
    """The prompts of rows, one a row: ``prompt_ids, sample, unit``, and ``group``, the number of the row.

    Passed over are rows without a prompt, those whose prompt and ``rollout.max_new_tokens`` are more than the model's
    learned ``positions``, and where ``evaluation.metrics`` wants some those without an answer. Raises UserError where
    it then wants the metrics of none.
    """
    new, wanted = recipe.rollout.max_new_tokens, bool(recipe.evaluation.metrics)
    asked = [
        (number, ids)
        for number, ids in asked_rows(examples, encoder)
        if not wanted or wanted_answer(examples[number]) is not None
    ]
    fitting = [(number, ids) for number, ids in asked if positions is None or encoder.room(ids, positions) >= new]
    if asked and not fitting and wanted and positions is not None:
        shortest = min(len(ids) for _, ids in asked)
        room = max(encoder.room(ids, positions) for _, ids in asked)
        what = f"{new} new tokens behind prompts of {shortest} and more are beyond the model's {positions} positions"
        raise UserError(what, where="rollout.max_new_tokens", hint=f"at most {room}")
    return prompt_batch(fitting)


def answer_metrics(
    names: Sequence[AnswerMetric], examples: Sequence[Example], completions: Sequence[str], batch: Batch
) -> dict[str, float]:
    """``val/<name>`` of answers to these examples (those without an answer of their own left out), and how long all
    answers of the batch are, in tokens, and which share ``ended`` by itself."""
    from distft.evaluation.text_scores import text_measures

    both = [(text, wanted) for text, one in zip(completions, examples, strict=True) if (wanted := wanted_answer(one))]
    found = text_measures([text for text, _ in both], [wanted for _, wanted in both], names) if both else {}
    return {
        **{f"val/{name}": measure.total for name, measure in found.items()},
        "objective/length": float(batch.ragged("response_ids").lengths.mean()),
        "objective/ended": float(batch.dense("ended").mean()),
    }
