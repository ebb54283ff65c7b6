"""How toxic answers are, by a classifier that reads each answer alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distft.config.eval_stage import TOXIC_LABEL
from distft.config.models import RewardModel
from distft.evaluation.scorer import Scorer
from distft.launch.named_models import Reading, find_model, require_label
from distft.planning.model_folders import fetched_folder, read_config


@dataclass(frozen=True)
class ToxicityNamed:
    """``name``: the classifier as it is typed; ``label``: the one whose probability is asked for."""

    name: str
    label: str = TOXIC_LABEL


class Toxicity:
    """The classifier, found; it is loaded for each policy anew, so that it takes no memory while that one writes.

    Raises UserError where it is none, or has no such label.
    """

    def __init__(self, named: ToxicityNamed, scratch: Path, reading: Reading) -> None:
        self._label = named.label
        self._model = find_model(named.name, scratch)
        self._trusted = reading.trust_remote_code
        require_label(self._model, named.label)

    def of(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """The probability of the label for each text, in the range 0 to 1: by the sigmoid of its output where labels
        do not exclude each other, or there is one, else by the softmax over all, as a text-classification pipeline of
        transformers has it."""
        folder = fetched_folder(self._model.path)
        config = {} if folder is None else read_config(folder)
        alone = config.get("problem_type") == "multi_label_classification" or len(self._model.labels) == 1
        section = self._model.section(Reading(trust_remote_code=self._trusted))
        scorer = Scorer.load(self._model.name, RewardModel(
            path=self._model.path, dtype=section.dtype, trust_remote_code=section.trust_remote_code, label=self._label,
            score="logit" if alone else "probability",
        ))  # fmt: skip
        found = scorer.of_texts(texts)
        return 1 / (1 + np.exp(-found)) if alone else found
