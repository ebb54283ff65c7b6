from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.data.bad_rows import BadRow
from distft.data.chat_templates import DEFAULT_TEMPLATE
from distft.data.formats import Message
from distft.data.templates import (
    render,
    render_prompt,
)

SYSTEM, ASK, TELL = Message("system", "Be kind"), Message("user", "Ask"), Message("assistant", "Tell")


def test_the_default_template(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = render(tokenizer, (SYSTEM, ASK, TELL), "x")
    assert whole == "<|system|>Be kind<|end|><|user|>Ask<|end|><|assistant|>Tell<|end|>"
    assert render_prompt(tokenizer, (SYSTEM, ASK), "x") == whole.removesuffix("Tell<|end|>")


def test_a_prompt_that_ends_in_the_assistants_words_is_left_open(tokenizer: PreTrainedTokenizerFast) -> None:
    assert render_prompt(tokenizer, (ASK, TELL), "x").endswith("<|assistant|>Tell")


def test_the_default_template_marks_what_the_assistant_says(tokenizer: PreTrainedTokenizerFast) -> None:
    found = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Tell"}] * 2,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    trained = [token for token, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(trained) == "Tell<|end|>Tell<|end|>"


def test_a_bos_is_put_before_the_conversation_where_the_tokenizer_has_one(with_bos: PreTrainedTokenizerFast) -> None:
    with_bos.chat_template = DEFAULT_TEMPLATE
    assert render(with_bos, (ASK,), "x") == "<s><|user|>Ask</s>"


def test_no_template_says_what_to_set(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = None
    with pytest.raises(UserError, match=r"has no chat template\n.*models.policy.chat_template=chatml") as caught:
        render(merging, (ASK,), "rows.jsonl:3")
    assert caught.value.where == "rows.jsonl:3"


def test_what_a_template_refuses_is_told_with_the_place(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:3: .* refuses .*\(user, critic\): unknown role critic"):
        render(tokenizer, (ASK, Message("critic", "No")), "rows.jsonl:3")


def test_a_template_that_is_none_is_not_the_rows_fault(tokenizer: PreTrainedTokenizerFast) -> None:
    own = tokenizer.chat_template
    try:
        tokenizer.chat_template = "{% for m in messages %}\n{{ m['content'] "
        with pytest.raises(
            UserError, match="the chat template cannot be read, in its line 2: unexpected end"
        ) as caught:
            render(tokenizer, (ASK, TELL), "rows.jsonl:3")
        assert not isinstance(caught.value, BadRow), "to leave out a row would not help"
        assert "models.policy.chat_template=chatml" in caught.value.hint
    finally:
        tokenizer.chat_template = own


def test_a_template_that_drops_the_words_is_told(tokenizer: PreTrainedTokenizerFast) -> None:
    """One that looks for parts, `{"type": "text", "text": ...}`, goes through a text letter by letter."""
    own = tokenizer.chat_template
    try:
        parts = "{% for part in m.content %}{{ part.text }}{% endfor %}"
        tokenizer.chat_template = f"{{% for m in messages %}}{parts}{{% endfor %}}"
        with pytest.raises(UserError, match="rows.jsonl:3: the chat template leaves out what the assistant says"):
            render(tokenizer, (ASK, TELL), "rows.jsonl:3")
    finally:
        tokenizer.chat_template = own
