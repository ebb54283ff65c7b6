"""Encoder-decoders (T5, BART and kin) with a scalar head on the states of the decoder: reward and value models.

The prompt is in the encoder, the answer in the decoder; an answer's score is that of the state which has read it all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from distft.config.data import ANSWER_SCORE
from distft.config.models import Model, ScoringModel
from distft.models.dropout import keep_layers, switch_off
from distft.models.encoder_decoder import AnswerValues
from distft.models.families.family import Arranged, Family, Loaded, ModelInputs
from distft.models.families.head import new_parts, settle_outputs
from distft.models.families.seq2seq import apart
from distft.models.load import load_config, read_weights, without_weights
from distft.planning.encoder_decoders import require_scores, require_values


def apart_with_ends(
    prompts: Sequence[npt.NDArray[Any]], responses: Sequence[npt.NDArray[Any]], pad_token: int, unread: int | None
) -> Arranged:
    """The arrays of ``apart``. The decoder has a state more than an answer has tokens: the first has read its start
    token only, so the value before token k is at k, and the last has read all of the answer that is not ``unread``."""
    arranged = apart(prompts, responses, pad_token, unread)
    rows, longest = arranged.arrays["answer_ids"].shape
    first = np.arange(rows, dtype=np.int64) * (longest + 1)
    read = [np.ones(len(response), bool) if unread is None else response != unread for response in responses]
    behind = [int(np.flatnonzero(one)[-1]) + 1 if one.any() else 0 for one in read]
    return Arranged(arranged.arrays, first, first + np.array(behind, np.int64))


@dataclass(frozen=True)
class Seq2SeqScalar(Family):
    """See ``Family``: outputs ``values``. One that gives texts one of the ``labels`` is refused: ``require_scores``."""

    labels: tuple[str, ...] = ()

    main_output = "values"
    peft_task = "SEQ_CLS"
    arrange = staticmethod(apart_with_ends)

    def load(self, path: str, model: Model, *, dropout: bool, new_head: bool = False, on_meta: bool = False) -> Loaded:
        """See ``Family``. The head has a hidden layer, as transformers has it."""
        written = load_config(path, model)
        self._require(written, path, model)
        config = deepcopy(written)
        keep_layers(config)
        if not dropout:
            switch_off(config)
        settle_outputs(path, config, model, ())
        _name_output(config, model)
        purpose = "with a scalar head"
        module, missing = read_weights(
            AutoModelForSequenceClassification, path, config, model, purpose, on_meta=on_meta
        )
        named = dict(module.named_parameters())
        own = [name for name in named if name.startswith("classification_head.")]
        fresh = new_parts(missing, own, path, allowed=new_head)
        return Loaded(AnswerValues(module, path, written), {name: named[name] for name in fresh})

    def empty(self, path: str, model: Model) -> Any:
        """See ``Family``."""
        config = load_config(path, model)
        self._require(config, path, model)
        config.num_labels = 1
        _name_output(config, model)
        return without_weights(AutoModelForSequenceClassification, config, model)

    def positions(self, prompt: int, response: int) -> int:
        """See ``Family``: each side has its own, and the decoder reads its start token too."""
        return max(prompt, response + 1)

    def outputs(
        self, forward: Callable[..., Any], inputs: ModelInputs, wanted: Sequence[str], reads: str, temperature: float
    ) -> dict[str, Tensor]:
        """See ``Family``: before each token, or behind all of them."""
        del wanted, temperature
        return {"values": forward(**inputs.tensors, select=inputs.last if reads == "last" else inputs.select)}

    def stops(self, tokenizer: Any, module: Any, named: Sequence[str] | None) -> tuple[int, ...]:
        """None: it gives no responses."""
        del tokenizer, module, named
        return ()

    def _require(self, written: Any, path: str, model: Model) -> None:
        if isinstance(model, ScoringModel):
            require_scores(written.to_dict(), path, labels=bool(self.labels) or model.label is not None)
        require_values(written.to_dict(), path)


def _name_output(config: Any, model: Model) -> None:
    """A reward model's says what it is, for transformers' own classifiers of that class read otherwise."""
    if isinstance(model, ScoringModel):
        config.id2label, config.label2id = {0: ANSWER_SCORE}, {ANSWER_SCORE: 0}
