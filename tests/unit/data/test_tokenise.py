from __future__ import annotations

from itertools import pairwise

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.bad_rows import BadRow
from distft.data.encode import Encoder
from distft.data.formats import CompletionExample, Example, Message, PreferenceExample, PromptExample, TextExample
from distft.data.tokenise import tokenise

TELL = Message("assistant", "A friend.")
SHORT, LONG = " a" * 3, " a" * 30


def _rows() -> list[Example]:
    return [CompletionExample("Q", answer, where=f"rows:{number}") for number, answer in enumerate((SHORT, LONG), 1)]


def test_truncate_keeps_the_start_without_an_end(tokenizer: PreTrainedTokenizerFast) -> None:
    found = tokenise(_rows(), "sft", tokenizer, Data(max_length=10), None)
    assert (found.places, found.num_truncated, dict(found.dropped)) == ([0, 1], 1, {})
    (cut,) = found.sequences[1]
    assert len(cut) == 10
    assert tokenizer.eos_token_id not in cut.response_ids


def test_of_a_long_text_every_token_is_trained_on_once(tokenizer: PreTrainedTokenizerFast) -> None:
    rows: list[Example] = [
        TextExample(SHORT, where="rows:1"),
        TextExample("The quick brown fox. " * 20, where="rows:2"),
    ]
    whole = Encoder(tokenizer).supervised(rows[1], "all").response_ids
    for limit in (2, 7, len(whole) - 1, len(whole)):
        found = tokenise(rows[1:], "pretrain", tokenizer, Data(max_length=limit, max_prompt_length=1), "all")
        blocks = [block for (block,) in found.sequences]
        assert (set(found.places), found.num_truncated, dict(found.dropped)) == ({0}, 0, {})
        assert all(2 <= len(block) <= limit for block in blocks)
        trained = [token for block in blocks for token, one in zip(block.response_ids, block.mask, strict=True) if one]
        assert trained == whole[1:]
        ends = [(before.response_ids[-1:], block.prompt_ids) for before, block in pairwise(blocks)]
        assert all(last == context for last, context in ends)  # what predicts a block's first token
    assert whole[-1] == tokenizer.eos_token_id
    found = tokenise(rows, "pretrain", tokenizer, Data(max_length=50), "all")
    assert found.places == [0, *[1] * (len(found.places) - 1)]
    for overlong, places in (("drop", [0]), ("truncate", found.places)):
        assert tokenise(rows, "pretrain", tokenizer, Data(max_length=50, overlong=overlong), "all").places == places


def test_drop(tokenizer: PreTrainedTokenizerFast) -> None:
    found = tokenise(_rows(), "sft", tokenizer, Data(max_length=10, overlong="drop"), None)
    assert (found.places, dict(found.dropped)) == ([0], {"over the limit": 1})


def test_error_names_row_and_lengths(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError) as caught:
        tokenise(_rows(), "sft", tokenizer, Data(max_length=10, overlong="error"), None)
    length = 1 + len(tokenizer(LONG)["input_ids"]) + 1
    assert caught.value.where == "rows:2"
    assert caught.value.what == f"the row has {length} tokens, data.max_length is 10"
    assert "truncate or drop" in caught.value.hint


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_pair_is_dropped_whole_when_one_side_loses_its_answer(tokenizer: PreTrainedTokenizerFast, side: str) -> None:
    prompt = (Message("user", LONG),)
    good, bad = (Message("assistant", "a"),), (Message("assistant", "b"),)
    limit = len(tokenizer.apply_chat_template([{"role": "user", "content": LONG}], return_dict=True)["input_ids"])
    pair = PreferenceExample(prompt, good, bad)
    found = tokenise([pair], "dpo", tokenizer, Data(max_length=limit), None)
    assert dict(found.dropped) == {"nothing to train on within the limit": 1}
    uneven = {"chosen": bad, "rejected": bad} | {side: (Message("assistant", LONG),)}
    found = tokenise([PreferenceExample(prompt, **uneven)], "dpo", tokenizer, Data(max_length=limit + 5), None)
    assert (found.places, found.num_truncated) == ([0], 1)


def test_prompts_have_their_own_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    rows: list[Example] = [PromptExample(LONG, where="rows:1"), PromptExample(SHORT, where="rows:2")]
    with pytest.raises(UserError, match=r"rows:1: the prompt has \d+ tokens, data.max_prompt_length is 8\n.*to drop"):
        tokenise(rows, "ppo", tokenizer, Data(max_prompt_length=8, overlong="error"), None)
    assert tokenise(rows, "ppo", tokenizer, Data(max_prompt_length=8, overlong="drop"), None).places == [1]
    found = tokenise(rows, "ppo", tokenizer, Data(max_prompt_length=8, overlong="truncate"), None)
    assert len(found.sequences[0][0].prompt_ids) == 8


def test_a_chat_prompt_is_never_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    rows: list[Example] = [PromptExample((Message("user", LONG),), where="rows:1")]
    with pytest.raises(UserError, match="rows:1.*would cut off where the assistant's turn begins"):
        tokenise(rows, "ppo", tokenizer, Data(max_prompt_length=8, overlong="truncate"), None)


def test_a_row_without_a_trained_token_is_dropped(tokenizer: PreTrainedTokenizerFast) -> None:
    # Without an EOS an empty text would have nothing, and one token nothing to predict it.
    tokenizer_without_end = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    rows: list[Example] = [CompletionExample("", "a"), CompletionExample("a", " b")]
    found = tokenise(rows, "sft", tokenizer_without_end, Data(), None)
    assert (found.places, dict(found.dropped)) == ([1], {"nothing to train on": 1})


def test_a_row_that_the_template_refuses_is_reported(tokenizer: PreTrainedTokenizerFast) -> None:
    rows: list[Example] = [CompletionExample("Q", " a" * number, where=f"rows:{number}") for number in range(1, 4)]
    alone = tokenise(rows, "sft", tokenizer, Data(), None)
    refused: list[Example] = [CompletionExample((Message("critic", "a"),), (TELL,), where=f"bad:{n}") for n in range(2)]
    bad: list[BadRow] = []
    found = tokenise([*rows[:2], refused[0], *rows[2:], refused[1]], "sft", tokenizer, Data(), None, bad.append)
    assert ([row.where for row in bad], found.sequences) == (["bad:0", "bad:1"], alone.sequences)
    assert [found.bad[place].where for place in (2, 4)] == ["bad:0", "bad:1"]
