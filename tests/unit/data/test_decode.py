"""What a response says: not a space more or less than its tokens, whatever a tokenizer does at a text's start."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from distft.data.chat_templates import DEFAULT_TEMPLATE
from distft.data.decode import answer_text, response_text
from distft.data.encode import Encoder
from distft.data.formats import Content, Message

TAGS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)
ASK = (Message("user", "The capital of France?"),)


def answered(tokenizer: PreTrainedTokenizerFast, prompt: Content, answer: str) -> tuple[list[int], list[int], str]:
    """Prompt and response as in training, and what is made of them again."""
    encoded = Encoder(tokenizer).answer(prompt, answer, "x")
    ids = encoded.prompt_ids, encoded.response_ids
    return *ids, answer_text(tokenizer, prompt, *ids, ended=True, where="x")


@pytest.mark.parametrize("answer", [" Paris", "Paris", " is Paris.", "is Paris.", "  Paris", " Paris "])
def test_a_plain_answer_comes_back_as_it_was(sentencepiece: PreTrainedTokenizerFast, answer: str) -> None:
    prompt = "Answer: The capital of France"
    *_, again = answered(sentencepiece, prompt, answer)
    assert again == answer


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, TAGS])
@pytest.mark.parametrize("answer", ["Paris", "is Paris.", "a\n\nb"])
def test_the_answer_of_a_conversation_comes_back_as_it_was(
    sentencepiece: PreTrainedTokenizerFast, template: str, answer: str
) -> None:
    """The space that the tokenizer or the template writes before it is not the answer's."""
    sentencepiece.chat_template = template
    *_, again = answered(sentencepiece, ASK, answer)
    assert again == answer


def test_byte_level_tokenizers_too(tokenizer: PreTrainedTokenizerFast) -> None:
    for prompt, answer in (("Who is", " there?"), ("Who is", "there?"), ((Message("user", "Hi"),), " A friend.")):
        assert answered(tokenizer, prompt, answer)[2] == answer


def test_special_tokens_within_a_response_are_no_text(sentencepiece: PreTrainedTokenizerFast) -> None:
    prompt_ids, response_ids, _ = answered(sentencepiece, "The capital", " of France")
    with_special = [*response_ids[:-1], *sentencepiece.convert_tokens_to_ids(["<|user|>", "<s>"]), response_ids[-1]]
    assert response_text(sentencepiece, prompt_ids, with_special, ended=True).strip() == "of France"


def test_a_response_without_words_is_empty(sentencepiece: PreTrainedTokenizerFast) -> None:
    assert answered(sentencepiece, "The capital", "")[2] == ""


def test_the_stop_token_is_none_of_the_text_even_where_it_is_not_special(tokenizer: PreTrainedTokenizerFast) -> None:
    encode = Encoder(tokenizer)._ids
    prompt, response = encode("Who is"), encode(" there?")
    assert response_text(tokenizer, prompt, response, ended=True) == tokenizer.decode(response[:-1])
    assert response_text(tokenizer, prompt, response, ended=False) == " there?"


def test_a_character_divided_between_prompt_and_response_is_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    """As where ``max_prompt_length`` cuts a prompt within a character."""
    ids = Encoder(tokenizer)._ids("é")
    assert len(ids) == 2
    prompt = Encoder(tokenizer)._ids("caf")
    assert response_text(tokenizer, [*prompt, ids[0]], [ids[1], *Encoder(tokenizer)._ids("s")], ended=False) == "és"
