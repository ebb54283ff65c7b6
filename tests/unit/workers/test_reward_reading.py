"""A rollout is read by the reward model where it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trl

from distft.batches import Batch, Ragged
from distft.data.encode import Encoder
from distft.data.encode_apart import encoder_for
from distft.data.formats import Content, Message, PromptExample
from distft.data.turn_end import TurnEnd, special_tokens, turn_end
from distft.models.tokenizer import load_tokenizer
from distft.workers.reward_reading import as_trained, read_anew, within_positions
from tests.harness.chat_templates import FAMILIES, family_tokenizer
from tests.unit.models.encoders import words, write_encoder

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


# Templates that TRL carries, and the special tokens in them. GLM's ends no turn; Qwen3 writes an empty thought before
# an answer, which no policy need write.
STOCK = {
    "qwen2_5": ["<|im_start|>", "<|im_end|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "phi3": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    "llama3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "cohere": ["<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>"],
    "gptoss": ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"],
    "glm4moe": ["[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
}


@pytest.mark.parametrize("name", STOCK)
def test_stock_templates_are_read_at_the_end_of_their_training_rows(name: str) -> None:
    folder = Path(str(trl.__file__)).parent / "chat_templates"
    tokenizer = family_tokenizer("words", ["Who is there? A friend."] * 9)
    tokenizer.add_special_tokens({"additional_special_tokens": STOCK[name], "bos_token": "<bos>"})
    tokenizer.chat_template = (folder / f"{name}.jinja").read_text()
    end = turn_end(tokenizer)
    assert end is not None
    assert end.appended is (name == "glm4moe")
    encoder = Encoder(tokenizer)
    trained = encoder.answer((ASK,), (TELL,), "x").response_ids
    answer = tokenizer("A friend.", add_special_tokens=False)["input_ids"]
    batch = rollout(encoder.prompt(PromptExample((ASK,))), [[*answer, end.stop], answer], [1, 0])
    read = as_trained(batch, [end] * 2, special_tokens(tokenizer)) or batch
    ids = read.ragged("response_ids")[0].tolist()
    assert trained[-len(ids) :] == ids
    assert read.ragged("response_ids")[1].tolist() == answer


def test_what_a_template_refuses_is_read_as_it_is() -> None:
    """A policy may write what no row of the reward model's training had; no iteration ends by that."""
    tokenizer = family_tokenizer("qwen", ["Who is there? A friend."] * 9)
    refuses = "{% if messages[-1]['content'] == 'A friend.' %}{{ raise_exception('never') }}{% endif %}"
    encoder = Encoder(tokenizer)
    whole = encoder.answer((ASK,), (TELL,), "x")
    tokenizer.chat_template = refuses + tokenizer.chat_template
    batch = rollout([3], [[4, 7], [5, 6]], [1, 0])
    read = read_anew(batch, [(ASK,)] * 2, ["A friend.", "A"], encoder, "x")
    assert read.ragged("prompt_ids")[0].tolist() == whole.prompt_ids
    assert tokenizer.decode(read.ragged("response_ids")[0]) == "A friend."
    assert tokenizer.decode(read.ragged("response_ids")[1]) == "A"


def test_of_what_is_too_long_for_the_positions_the_end_is_read() -> None:
    batch = rollout([1, 2, 3], [[4], [4, 5, 6], [4, 5, 6, 7, 8, 9, 10]], [1, 1, 0])
    read = within_positions(batch, 5)
    found = [[read.ragged(name)[row].tolist() for name in ("prompt_ids", "response_ids")] for row in range(3)]
    assert found == [[[1, 2, 3], [4]], [[2, 3], [4, 5, 6]], [[], [6, 7, 8, 9, 10]]]
    apart = within_positions(batch, 4, apart=True)  # the decoder's start token has one of its four
    found = [[apart.ragged(name)[row].tolist() for name in ("prompt_ids", "response_ids")] for row in range(3)]
    assert found == [[[1, 2, 3], [4]], [[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [8, 9, 10]]]
    assert within_positions(batch, 8, apart=True) is batch
    for enough in (10, None):
        assert within_positions(batch, enough) is batch


def test_an_encoder_reads_an_answer_as_its_pair_of_texts_and_within_its_positions(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_encoder(tmp_path, "bert", num_labels=2))
    prompts: list[Content] = [words(*range(10, 30)), (Message("user", words(5, 6)),)]
    batch = Batch({"sample": np.arange(2), "unit": np.arange(2), "ended": np.array([1, 0], np.uint8)})
    answers = [words(40, 41), words(42)]
    for limit in (None, 12):
        read = read_anew(batch, prompts, answers, encoder_for(tokenizer, "reward"), "here", limit)
        for row, (first, second) in enumerate(((words(*range(10, 30)), answers[0]), (words(5, 6), answers[1]))):
            whole = tokenizer(first, second)["input_ids"]
            found = [*read.ragged("prompt_ids")[row], *read.ragged("response_ids")[row]]
            over = max(0, len(whole) - (limit or len(whole)))
            assert found == [whole[0], *whole[1 + over :]]
            assert read.ragged("response_ids")[row].tolist() == whole[-1 - len(second.split()) :]
