"""The end of a turn is found by asking the template."""

from __future__ import annotations

import pytest

from distft.data.turn_end import TurnEnd, plain_end, turn_end
from tests.harness.chat_templates import ENDLESS, FAMILIES, family_tokenizer

TEXTS = ["Which word? Word. Another one?\n\n" * 9]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_end_of_every_family(name: str) -> None:
    tokenizer, family = family_tokenizer(name, TEXTS), FAMILIES[name]
    end = turn_end(tokenizer)
    assert end is not None
    assert tokenizer.decode([end.stop]) == family.stop
    assert end.appended is (name in ENDLESS)
    behind = end.behind(end.stop)  # type: ignore[arg-type]
    assert behind is not None
    assert tokenizer.decode(behind) == family.behind
    conversation = [{"role": "user", "content": "Word?"}, {"role": "assistant", "content": "Word."}]
    ids = tokenizer.apply_chat_template(conversation)["input_ids"]
    assert end.appended or tuple(ids[-len(end.ids) :]) == end.ids


def test_what_is_no_part_of_the_end_has_nothing_behind_it() -> None:
    assert TurnEnd((7, 8), 7).behind(7) == (8,)
    assert TurnEnd((7, 8), 7).behind(8) == ()
    assert TurnEnd((7, 8), 7).behind(9) is None


def test_no_template_or_one_that_refuses_has_no_end() -> None:
    tokenizer = family_tokenizer("qwen", TEXTS)
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    assert turn_end(tokenizer) is None
    tokenizer.chat_template = None
    assert turn_end(tokenizer) is None
    assert plain_end(tokenizer) == TurnEnd((tokenizer.eos_token_id,), tokenizer.eos_token_id)


def test_without_an_end_of_sequence_there_is_none_to_append() -> None:
    tokenizer = family_tokenizer("glm", TEXTS)
    tokenizer.eos_token = None
    assert turn_end(tokenizer) == TurnEnd((), None, appended=True)
