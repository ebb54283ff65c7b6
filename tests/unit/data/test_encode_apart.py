"""Rows of an encoder-decoder have the ids that its tokenizer gives prompt and answer by themselves."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers.processors import TemplateProcessing

from distft.common.errors import UserError
from distft.config.data import Data
from distft.data.bad_rows import BadRow
from distft.data.decode import response_text
from distft.data.encode import Encoder
from distft.data.encode_apart import ApartEncoder, encoder_for
from distft.data.formats import CompletionExample, DialogueExample, Message, PreferenceExample, TextExample
from distft.data.reading_marks import mark_apart
from distft.data.tokenise import tokenise
from distft.data.tokenizer_training import tokenizers_equal
from tests.unit.models import tiny

TEMPLATE = "{% for m in messages %}w9 {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}w8 {% endif %}"


def apart(*, bart: bool = False) -> Any:
    """A tokenizer that puts EOS behind a text as T5's does, or BOS before it too as BART's."""
    tokenizer: Any = tiny.tokenizer()
    single = "<s> $A </s>" if bart else "$A </s>"
    tokens = [("<s>", tiny.BOS), ("</s>", tiny.EOS)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=tokens)
    mark_apart(tokenizer)
    return tokenizer


def test_which_encoder_a_tokenizer_has() -> None:
    plain, marked = tiny.tokenizer(), tiny.tokenizer()
    mark_apart(marked)
    assert type(encoder_for(plain)) is Encoder
    assert type(encoder_for(marked)) is ApartEncoder
    assert not tokenizers_equal(plain, marked)  # a reward model that reads one row reads other tokens


@pytest.mark.parametrize("bart", [False, True])
def test_prompt_and_answer_are_encoded_as_the_tokenizer_encodes_texts(*, bart: bool) -> None:
    tokenizer = apart(bart=bart)
    encoded = encoder_for(tokenizer).supervised(CompletionExample("w3 w4", "w5 w6", where="x"), None)
    assert encoded.prompt_ids == tokenizer("w3 w4")["input_ids"] == [*[1] * bart, 3, 4, 2]
    assert encoded.response_ids == tokenizer("w5 w6")["input_ids"] == [*[1] * bart, 5, 6, 2]
    assert encoded.mask == [1] * len(encoded.response_ids)
    text = response_text(tokenizer, encoded.prompt_ids, encoded.response_ids, ended=True)
    assert text == "w5 w6"


def test_an_answer_ends_even_where_the_tokenizer_ends_no_text() -> None:
    tokenizer = tiny.tokenizer()
    mark_apart(tokenizer)
    encoded = encoder_for(tokenizer).answer("w3", "w5", "x")
    assert (encoded.prompt_ids, encoded.response_ids) == ([3], [5, 2])
    assert encoder_for(tokenizer).cut_answer("w3", "w5", "x").response_ids == [5]


def test_a_pair_has_one_prompt() -> None:
    chosen, rejected = encoder_for(apart()).compared(PreferenceExample("w3", "w4", "w5 w6", where="x"))
    assert chosen.prompt_ids == rejected.prompt_ids == [3, 2]
    assert (chosen.response_ids, rejected.response_ids) == ([4, 2], [5, 6, 2])


def test_of_a_conversation_the_last_turn_is_the_answer() -> None:
    tokenizer = apart()
    tokenizer.chat_template = TEMPLATE
    turns = (Message("user", "w3"), Message("assistant", "w4"), Message("user", "w5"), Message("assistant", "w6"))
    refused = DialogueExample(turns, where="x")
    with pytest.raises(BadRow, match="in other words"):  # this one writes a mark before an answer that then is w9
        encoder_for(tokenizer).supervised(refused, None)
    tokenizer.chat_template = TEMPLATE.replace("w8", "w9")
    encoded = encoder_for(tokenizer).supervised(refused, "assistant")
    assert encoded.prompt_ids == [9, 3, 9, 4, 9, 5, 9, 2]
    assert encoded.response_ids == [6, 2]
    again = CompletionExample(turns[:3], turns[3:], where="x")
    assert encoder_for(tokenizer).supervised(again, None) == encoded


def test_what_it_cannot_learn_is_refused() -> None:
    encoder = encoder_for(apart())
    with pytest.raises(UserError, match=r"a plain text has no prompt.*\n.*prompt \+ completion"):
        encoder.supervised(TextExample("w3", where="x"), None)
    with pytest.raises(UserError, match=r"learns the answer.*\n.*loss_on=completion"):
        encoder.supervised(CompletionExample("w3", "w4", where="x"), "all")


def test_each_side_has_its_own_limit() -> None:
    """A prompt keeps its end, and a long one leaves the answer what is its own."""
    long, data = "w3 w4 w5 w6 w7", Data(max_length=7, max_prompt_length=4)
    rows = [CompletionExample(long, "w8", where="a"), CompletionExample("w3", long, where="b")]
    found = tokenise(rows, "sft", apart(), data, None)
    assert [one[0].prompt_ids for one in found.sequences] == [[3, 4, 5, 2], [3, 2]]
    assert [one[0].response_ids for one in found.sequences] == [[8, 2], [3, 4, 5]]
    assert found.truncated == [True, True]
    with pytest.raises(UserError, match=r"has 6 tokens, what data.max_length leaves .* is 3"):
        tokenise(rows[1:], "sft", apart(), data.model_copy(update={"overlong": "error"}), None)
    assert Data(max_length=100).sides == (50, 50)  # the default leaves nothing
    prompts = tokenise(rows[:1], "ppo", apart(), data, None)
    assert prompts.sequences[0][0].prompt_ids == [3, 4, 5, 2]
