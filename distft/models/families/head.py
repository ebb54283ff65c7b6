"""What the outputs of a scoring head stand for: one reward, the labels of a classifier to be trained, or the one label
of a finished classifier that is rewarded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from distft.common.errors import UserError
from distft.config.data import INSTEAD_OF_STEPS, NO_WHOLE_ANSWERS, RIGHT_STEP
from distft.config.models import Model, ScoringModel
from distft.models.families.table import has_scoring_head
from distft.models.load import require_all


def settle_outputs(path: str, config: Any, model: Model, labels: Sequence[str]) -> int:
    """Gives the config as many outputs as are wanted, by name where they are ``labels``; which one is the scalar.

    Raises UserError where a finished classifier has other labels, or another number of outputs than one and none is
    named.
    """
    if not labels:
        return _rewarded_output(path, config, model)
    if has_scoring_head(config.architectures):
        own = [str(config.id2label[number]) for number in range(config.num_labels)]
        if own != list(labels):
            further = "" if RIGHT_STEP in labels else f"algorithm.labels=[{', '.join(own)}] trains it further; or "
            raise UserError(
                f"is a classifier already, of {', '.join(own)}; wanted are {', '.join(labels)}",
                where=path,
                hint=f"{further}take the model it was trained from",
            )
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    return 0


def new_parts(missing: Sequence[str], own: Collection[str], path: str, *, allowed: bool) -> list[str]:
    """Of the names of missing weights those that a new head has (``own``).

    Raises UserError where others are missing too, or none may be: a reward model with a random head would score at
    random and nothing would tell.
    """
    require_all([name for name in missing if name not in own], path)
    if missing and not allowed:
        raise UserError(
            f"has no scalar head ({missing[-1]}): it is not a reward model",
            where=path,
            hint="train one with a `reward` recipe, or name a reward model",
        )
    return list(missing)


def _rewarded_output(path: str, config: Any, model: Model) -> int:
    """Which output of the head is the scalar: that of the label the recipe names, else the only one."""
    label = model.label if isinstance(model, ScoringModel) else None
    has_head = has_scoring_head(config.architectures)
    if isinstance(model, ScoringModel) and has_head and RIGHT_STEP in config.id2label.values():
        raise UserError(NO_WHOLE_ANSWERS.format(model="it"), where=path, hint=INSTEAD_OF_STEPS)
    if label is not None:
        numbers = {str(name): int(number) for number, name in config.id2label.items()}
        if label not in numbers:
            raise UserError(f"has no label {label}", where=path, hint=f"it has: {', '.join(sorted(numbers))}")
        return numbers[label]
    if has_head and config.num_labels != 1:
        raise UserError(
            f"its head has {config.num_labels} outputs, a scalar head has one",
            where=path,
            hint="for a classifier's score name the output: models.reward.label",
        )
    config.num_labels = 1
    return 0
