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
    render_with_spans,
    resolve_template,
)

SYSTEM, ASK, TELL = Message("system", "Be kind"), Message("user", "Ask"), Message("assistant", "Tell")
# No generation marks; the second drops what the assistant said before.
PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }};\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}[{{ m['role'] }}]"
    "{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] }}{% endif %};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


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


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, PLAIN])
def test_spans_are_the_same_with_marks_and_without(merging: PreTrainedTokenizerFast, template: str) -> None:
    merging.chat_template = template
    rendered = render_with_spans(merging, (ASK, TELL, ASK, Message("assistant", "More")), "x")
    ends = {DEFAULT_TEMPLATE: "<|end|>", PLAIN: ";\n"}[template]
    assert [rendered.text[start:end] for start, end in rendered.spans] == [f"Tell{ends}", f"More{ends}"]


def test_a_template_that_rewrites_the_past_needs_marks(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = FORGETFUL
    with pytest.raises(UserError, match=r"turn 2 differently.*\n.*algorithm.loss_on=completion.*generation") as caught:
        render_with_spans(merging, (ASK, TELL, ASK, TELL), "rows.jsonl:3")
    assert caught.value.where == "rows.jsonl:3"


def test_no_template_says_what_to_set(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = None
    with pytest.raises(UserError, match=r"has no chat template\n.*chat_template: default") as caught:
        render(merging, (ASK,), "rows.jsonl:3")
    assert caught.value.where == "rows.jsonl:3"


def test_what_a_template_refuses_is_told_with_the_place(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:3: .* refuses .*\(user, critic\): unknown role critic"):
        render(tokenizer, (ASK, Message("critic", "No")), "rows.jsonl:3")
    with pytest.raises(UserError, match="unknown role critic"):
        render_with_spans(tokenizer, (ASK, Message("critic", "No")), "rows.jsonl:3")


def test_templates_by_name_file_and_text(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(PLAIN)
    assert resolve_template("default") == DEFAULT_TEMPLATE
    assert resolve_template(str(tmp_path / "chat.jinja")) == PLAIN
    assert resolve_template(PLAIN) == PLAIN
    with pytest.raises(UserError, match="no chat template 'chatml'"):
        resolve_template("chatml")
