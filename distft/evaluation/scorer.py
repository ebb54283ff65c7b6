"""A reward model of this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distft.batches import Batch, Ragged
from distft.config.models import RewardModel
from distft.data.encode_apart import encoder_for
from distft.data.encode_pairs import PairEncoder
from distft.data.formats import ClassifiedExample
from distft.data.reading_marks import reads_apart
from distft.data.tokenizer_training import tokenizers_equal
from distft.data.turn_end import plain_end, special_tokens, turn_end
from distft.engine.process_group import accelerator
from distft.evaluation.passes import chosen_labels, rewards
from distft.models.families.family import Family, family_at, find_family
from distft.models.families.table import family_of
from distft.models.padding import padding, unread_token
from distft.models.tokenizer import load_tokenizer
from distft.planning.positions import position_limit
from distft.rollout.speaker import Answer, Question, Speaker
from distft.workers.reward_reading import as_trained, read_anew, within_positions


class Scorer:
    """A model with a scalar head, or a classifier's, with its tokenizer, on this process's accelerator."""

    def __init__(self, name: str, tokenizer: Any, family: Family, module: Any) -> None:
        self.name, self.tokenizer, self._family, self._module = name, tokenizer, family, module
        config = module.model.config
        self._pad_token, self._unread = padding(tokenizer, config) or 0, unread_token(tokenizer, config, trained=False)
        self._positions = position_limit(config.to_dict())

    @classmethod
    def load(cls, name: str, model: RewardModel, labels: tuple[str, ...] = ()) -> Scorer:
        """The model at ``model.path``, a classifier of the ``labels`` where there are any. Raises UserError where there
        is none, or no tokenizer."""
        assert model.path is not None
        tokenizer = load_tokenizer(
            model.path, trust_remote_code=model.trust_remote_code, chat_template=model.chat_template
        )
        family = find_family(family_at(family_of("reward").name, model.path, model), labels)
        module = family.load(model.path, model, dropout=False).module
        return cls(name, tokenizer, family, module.requires_grad_(requires_grad=False).eval().to(accelerator()))

    def of_rows(self, batch: Batch) -> npt.NDArray[np.float64]:
        """The scores of rows in its own tokens; of those beyond its positions the beginning is left out."""
        batch = within_positions(batch, self._positions, apart=reads_apart(self.tokenizer))
        return rewards(self._family, self._module, batch, self._pad_token, self._unread)

    def of_classes(self, batch: Batch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """See ``chosen_labels``."""
        return chosen_labels(self._family, self._module, batch, self._pad_token, self._unread)

    def of_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """The scores of texts alone, as the tokenizer itself puts them together; of those beyond its positions the end
        is left out, as by a pipeline of transformers. One without a token scores as a blank does."""
        encoder, found = encoder_for(self.tokenizer, "classifier"), []
        for text in texts:
            one = encoder.classified(ClassifiedExample(text, "", where=self.name))
            if not len(one):
                one = encoder.classified(ClassifiedExample(" ", "", where=self.name))
            limit = self._positions or len(one)
            found.append(encoder.within(one, limit) if isinstance(encoder, PairEncoder) else one.truncated(limit))
        numbers = np.arange(len(found), dtype=np.int64)
        prompts, answers = ([getattr(one, side) for one in found] for side in ("prompt_ids", "response_ids"))
        return self.of_rows(Batch({
            "sample": numbers, "unit": numbers, "prompt_ids": Ragged.of(prompts, np.int32),
            "response_ids": Ragged.of(answers, np.int32),
        }))  # fmt: skip

    def of_answers(
        self, speaker: Speaker, questions: Sequence[Question], answers: Sequence[Answer]
    ) -> npt.NDArray[np.float64]:
        """The scores of a speaker's answers, read as a run's reward model reads them: its own tokens and template where
        they are not the speaker's, and with the end that an answer has in a row of its training. Raises UserError for
        a conversation where it has no template."""
        numbers = np.arange(len(answers), dtype=np.int64)
        ended = np.array([answer.ended for answer in answers], np.uint8)
        rows = Batch({"sample": numbers, "unit": numbers, "ended": ended})
        prompts = [question.prompt for question in questions]
        if not tokenizers_equal(speaker.tokenizer, self.tokenizer):
            texts = [answer.text for answer in answers]
            encoder = encoder_for(self.tokenizer, "reward")
            return self.of_rows(read_anew(rows, prompts, texts, encoder, self.name, self._positions))
        spoken = rows.with_columns(
            prompt_ids=Ragged.of([speaker.encoded(question) for question in questions], np.int32),
            response_ids=Ragged.of([answer.ids for answer in answers], np.int32),
        )
        plain, chat = plain_end(self.tokenizer), turn_end(self.tokenizer)
        ends = [plain if isinstance(prompt, str) else chat for prompt in prompts]
        return self.of_rows(as_trained(spoken, ends, special_tokens(self.tokenizer)) or spoken)
