"""Rejected answers of held-out pairs, tokenised as the chosen ones are."""

from __future__ import annotations

from distft.config.load import load_recipe
from distft.data.encode import Encoder
from distft.data.formats import CompletionExample, Example, Message, PreferenceExample
from distft.data.tokenizer_training import train_tokenizer
from distft.workers.rejected_answers import rejected_answers

ENCODER = Encoder(train_tokenizer(["Who is it? It is she. It is nobody at all."] * 3, 300))
ROWS: list[Example] = [
    CompletionExample("Who is it?", "It is she."),
    PreferenceExample("Who is it?", "It is she.", "It is nobody at all."),
    PreferenceExample("Who is it? " * 100, "It is she.", "It is nobody."),
]


def test_of_pairs_alone_and_what_the_limit_leaves() -> None:
    batch = rejected_answers(ROWS, ENCODER, load_recipe("sft-tiny", ["data.max_length=64"]))
    wanted = ENCODER.supervised(CompletionExample("Who is it?", "It is nobody at all."), None)
    assert len(batch) == 1
    assert batch.ragged("prompt_ids")[0].tolist() == wanted.prompt_ids
    assert batch.ragged("response_ids")[0].tolist() == wanted.response_ids
    assert batch.ragged("response_mask")[0].tolist() == wanted.mask == [1] * len(wanted.mask)
    assert len(rejected_answers(ROWS[:1], ENCODER, load_recipe("sft-tiny", []))) == 0


def test_what_is_learned_of_the_chosen_ones_is_judged() -> None:
    whole = rejected_answers(ROWS[1:2], ENCODER, load_recipe("sft-tiny", ["algorithm.loss_on=all"]))
    assert whole.ragged("prompt_ids")[0].tolist() == []
    assert whole.ragged("response_mask")[0].tolist()[:2] == [0, 1]


def test_a_row_that_the_template_refuses_is_passed_over() -> None:
    tokenizer = train_tokenizer(["Who? she nobody"] * 3, 300)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'nobody' %}{{ raise_exception('who is it?') }}{% endif %}"
        "{{ m.role ~ m.content ~ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
    )
    asked = (Message("user", "Who?"),)
    rows = [
        PreferenceExample(asked, "she", (Message(role, "no"),), where=f"rows:{role}")
        for role in ("nobody", "assistant")
    ]
    assert len(rejected_answers(rows, Encoder(tokenizer), load_recipe("sft-tiny", []))) == 1
