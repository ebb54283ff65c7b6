from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.data.tokenizer_training import tokenizers_equal, train_tokenizer

TEXTS = ["The sky is blue. " * 5, "The sea is green, and the sky is wide. " * 5, "Über den Wolken 🙂 " * 3]


def test_special_tokens_are_single_and_distinct() -> None:
    tokenizer = train_tokenizer(TEXTS, 320)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, None)
    for marker in ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>"):
        assert len(tokenizer(marker)["input_ids"]) == 1
    assert tokenizer.decode(tokenizer("<|user|>The sky<|end|>")["input_ids"], skip_special_tokens=True) == "The sky"


def test_every_text_survives() -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    for text in ("  spaces  and\n\nlines\t", "Ünseen 日本語 🙂", "a , b . c ' s"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_size_is_at_most_what_was_asked() -> None:
    assert len(train_tokenizer(TEXTS, 280)) == 280
    assert len(train_tokenizer(TEXTS, 5000)) < 5000
    with pytest.raises(UserError, match="vocab_size 200 cannot hold.*\n.*at least 262"):
        train_tokenizer(TEXTS, 200)


def test_markers_of_the_template_become_special() -> None:
    template = "{% for m in messages %}<|turn_start|>{{ m['content'] }}<|end|>{% endfor %}"
    tokenizer = train_tokenizer(TEXTS, 300, template)
    assert len(tokenizer("<|turn_start|>")["input_ids"]) == 1
    assert tokenizer.chat_template == template


def test_reloading_gives_an_equal_tokenizer(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, 300)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizers_equal(tokenizer, again)
    text = "<|user|>The sky is 🙂<|end|>"
    assert tokenizer(text)["input_ids"] == again(text)["input_ids"]
    chat = [{"role": "user", "content": "The sky"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == again.apply_chat_template(chat, tokenize=False)


def test_another_process_trains_the_same_tokenizer() -> None:
    code = (
        f"from distft.data.tokenizer_training import train_tokenizer; "
        f"print(train_tokenizer({TEXTS!r}, 300).backend_tokenizer.to_str())"
    )
    other = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, check=True)
    assert other.stdout.decode().strip() == train_tokenizer(TEXTS, 300).backend_tokenizer.to_str()


def test_unequal_tokenizers_are_told_apart() -> None:
    base = train_tokenizer(TEXTS, 300)

    def changed(**named: str) -> PreTrainedTokenizerFast:
        other = train_tokenizer(TEXTS, 300)
        for name, value in named.items():
            setattr(other, name, value)
        return other

    assert tokenizers_equal(base, changed())
    assert not tokenizers_equal(base, train_tokenizer(TEXTS, 299))
    assert not tokenizers_equal(base, train_tokenizer([*TEXTS, "more words " * 50], 300))
    assert not tokenizers_equal(base, changed(eos_token="<|user|>"))
    assert not tokenizers_equal(base, changed(pad_token="<|end|>"))
    assert not tokenizers_equal(base, changed(chat_template="{{ messages }}"))


def test_padding_and_truncation_settings_do_not_count() -> None:
    one, other = train_tokenizer(TEXTS, 300), train_tokenizer(TEXTS, 300)
    other(["a", "a b c"], padding=True, truncation=True, max_length=2)
    assert tokenizers_equal(one, other)


def test_what_cannot_be_compared_is_not_equal() -> None:
    class Slow:
        chat_template = None

    assert not tokenizers_equal(Slow(), Slow())  # type: ignore[arg-type]
