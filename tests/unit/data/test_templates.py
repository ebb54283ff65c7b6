from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.data.formats import Message
from distft.data.templates import (
    DEFAULT_TEMPLATE,
    render,
    render_prompt,
    resolve_template,
)

SYSTEM, ASK, TELL = Message("system", "Be kind"), Message("user", "Ask"), Message("assistant", "Tell")
PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }};{% endfor %}"


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
    with pytest.raises(UserError, match=r"has no chat template\n.*chat_template: default") as caught:
        render(merging, (ASK,), "rows.jsonl:3")
    assert caught.value.where == "rows.jsonl:3"


def test_what_a_template_refuses_is_told_with_the_place(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:3: .* refuses .*\(user, critic\): unknown role critic"):
        render(tokenizer, (ASK, Message("critic", "No")), "rows.jsonl:3")


def test_templates_by_name_file_and_text(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(PLAIN)
    assert resolve_template("default") == DEFAULT_TEMPLATE
    assert resolve_template(str(tmp_path / "chat.jinja")) == PLAIN
    assert resolve_template(PLAIN) == PLAIN
    with pytest.raises(UserError, match="no chat template 'chatml'"):
        resolve_template("chatml")
