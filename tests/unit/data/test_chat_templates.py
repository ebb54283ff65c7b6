from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.data.chat_templates import CHATML, DEFAULT_TEMPLATE, LLAMA3, NAMED, fitted, resolve_template
from distft.data.encode import Encoder
from distft.data.formats import DialogueExample, Message
from distft.data.templates import render, render_prompt
from distft.data.tokenizer_training import train_tokenizer

SYSTEM, ASK, TELL = Message("system", "Be kind"), Message("user", "Ask"), Message("assistant", "Tell")
TEXTS = ["Who is there? A friend."] * 3


def test_templates_by_name_file_and_text(tmp_path: Path) -> None:
    own = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "chat.jinja").write_text(own)
    assert [resolve_template(name) for name in ("default", "chatml", "llama3")] == [DEFAULT_TEMPLATE, CHATML, LLAMA3]
    assert resolve_template(str(tmp_path / "chat.jinja")) == own
    assert resolve_template(own) == own
    with pytest.raises(UserError, match="no chat template 'chatlm'\n.*did you mean chatml") as caught:
        resolve_template("chatlm", "models.policy.chat_template")
    assert caught.value.where == "models.policy.chat_template"
    with pytest.raises(UserError, match="say default, chatml, llama3, or give a Jinja file"):
        resolve_template("no/such.jinja")


def test_the_shapes() -> None:
    chatml = train_tokenizer(TEXTS, 300, "chatml")
    whole = "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nAsk<|im_end|>\n<|im_start|>assistant\n"
    assert render_prompt(chatml, (SYSTEM, ASK), "x") == whole
    assert render(chatml, (SYSTEM, ASK, TELL), "x") == whole + "Tell<|im_end|>\n"
    llama3 = train_tokenizer(TEXTS, 300, "llama3")
    llama3.add_special_tokens({"bos_token": "<|begin_of_text|>"})
    assert render(llama3, (ASK, Message("assistant", " Tell\n")), "x") == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nAsk<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nTell<|eot_id|>"
    )


@pytest.mark.parametrize("name", NAMED)
def test_what_is_trained_ends_with_a_token_that_stops(name: str) -> None:
    """Also for a tokenizer without the template's markers: there EOS ends a turn."""
    ends = {"default": "<|end|>", "chatml": "<|im_end|>", "llama3": "<|eot_id|>"}
    for tokenizer, end in ((train_tokenizer(TEXTS, 300, name), ends[name]), (train_tokenizer(TEXTS, 300), "<|end|>")):
        tokenizer.chat_template = fitted(resolve_template(name), tokenizer)
        encoded = Encoder(tokenizer).supervised(DialogueExample((ASK, TELL, ASK, TELL)), None)
        trained = [i for i, mask in zip(encoded.response_ids, encoded.mask, strict=True) if mask]
        assert tokenizer.decode(trained) == f"Tell{end}Tell{end}"
        assert trained[-1] == tokenizer.convert_tokens_to_ids(end)


def test_a_bos_that_begins_a_turn_is_not_doubled(with_bos: PreTrainedTokenizerFast) -> None:
    with_bos.chat_template = fitted(CHATML, with_bos)
    assert render(with_bos, (ASK,), "x") == "<s><|im_start|>user\nAsk</s>\n"
    with_bos.add_special_tokens({"bos_token": "<|im_start|>"})
    assert render(with_bos, (ASK,), "x") == "<|im_start|>user\nAsk</s>\n"


def test_the_remedy_names_the_roles_model(with_bos: PreTrainedTokenizerFast) -> None:
    for role in ("policy", "reward"):
        with pytest.raises(UserError, match=f"rows:3.*has no chat template\n.*models.{role}.chat_template=chatml"):
            Encoder(with_bos, role).supervised(DialogueExample((ASK, TELL), where="rows:3"), None)
