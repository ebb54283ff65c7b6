"""A rollout is read by the reward model where it was trained."""

from __future__ import annotations

import numpy as np
import pytest

from distft.batches import Batch, Ragged
from distft.data.encode import Encoder
from distft.data.formats import Message, PromptExample
from distft.data.turn_end import TurnEnd, special_tokens, turn_end
from distft.workers.reward_reading import as_trained
from tests.harness.chat_templates import FAMILIES, family_tokenizer

ASK, TELL = Message("user", "Who is there?"), Message("assistant", "A friend.")


def rollout(prompt: list[int], responses: list[list[int]], ended: list[int]) -> Batch:
    number = np.arange(len(responses))
    return Batch(
        {
            "prompt_ids": Ragged.of([prompt] * len(responses), np.int32),
            "response_ids": Ragged.of(responses, np.int32),
            "ended": np.array(ended, np.uint8),
            "sample": number,
            "unit": number,
        }
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_of_the_policy_is_read_with_the_ids_that_a_reward_model_is_trained_on(name: str) -> None:
    tokenizer = family_tokenizer(name, ["Who is there? A friend."] * 9)
    encoder, end = Encoder(tokenizer), turn_end(tokenizer)
    assert end is not None
    trained = encoder.answer((ASK,), (TELL,), "x")
    cut = trained.response_ids[: trained.response_ids.index(end.ids[0])]
    stopped = trained.response_ids[: trained.response_ids.index(end.stop) + 1]  # type: ignore[arg-type]
    other = [*cut, tokenizer.pad_token_id]  # a stop token of the model's settings that the template does not write
    batch = rollout(encoder.prompt(PromptExample((ASK,))), [stopped, other, cut], [1, 1, 0])
    read = as_trained(batch, [end] * 3, special_tokens(tokenizer))
    assert read is not None
    assert read.ragged("prompt_ids")[0].tolist() == trained.prompt_ids
    assert [read.ragged("response_ids")[row].tolist() for row in range(3)] == [trained.response_ids] * 2 + [cut]


def test_what_ends_as_it_should_is_left_alone() -> None:
    end = TurnEnd((7,), 7)
    batch = rollout([3], [[4, 7], [5, 6]], [1, 0])
    assert as_trained(batch, [end, end], {7}) is None
    assert as_trained(batch, [None, None], {7}) is None


def test_a_stop_token_that_is_plain_text_stays() -> None:
    batch = rollout([3], [[4, 5]], [1])
    read = as_trained(batch, [TurnEnd((7, 8), 7)], {7, 8})
    assert read is not None
    assert read.ragged("response_ids")[0].tolist() == [4, 5, 7, 8]
