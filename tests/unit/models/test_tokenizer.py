"""The tokenizer of a folder: what transformers would take, without its models' code where that can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.models.auto import tokenization_auto

from distft.common.errors import UserError
from distft.models.tokenizer import is_general, load_tokenizer
from tests.unit.models import tiny


def folder_of(tmp_path: Path, family: str) -> Path:
    """A model's folder, as far as tokenizers are concerned."""
    tiny.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    return tmp_path


def change(file: Path, **keys: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


@pytest.mark.parametrize("named", ["TokenizersBackend", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "qwen3", "gemma2", "gpt_neox"])
def test_the_general_class_is_the_one_that_auto_tokenizer_takes(tmp_path: Path, family: str, named: str) -> None:
    folder = folder_of(tmp_path, family)
    change(folder / "tokenizer_config.json", tokenizer_class=named)
    assert is_general(folder)
    ours, theirs = load_tokenizer(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert type(ours) is type(theirs)
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours("w3 w4 </s>")["input_ids"] == theirs("w3 w4 </s>")["input_ids"]


def test_what_transformers_knows_better_is_left_to_it(tmp_path: Path) -> None:
    assert len(tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS) > 10
    for family in tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS:
        assert not is_general(folder_of(tmp_path, family)), family


def test_so_is_a_class_of_its_own_code_of_its_own_and_a_folder_that_does_not_say(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama")
    assert not is_general(None)
    for name, keys in (
        ("config.json", {"model_type": ""}),
        ("tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}}),
    ):
        before = (folder / name).read_text()
        change(folder / name, **keys)
        assert not is_general(folder), keys
        (folder / name).write_text(before)
    assert is_general(folder)
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        (folder / name).rename(folder / "away")
        assert not is_general(folder), name
        (folder / "away").rename(folder / name)


def test_a_torn_folder_or_none_is_one_message(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "llama")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        whole = (folder / name).read_text()
        for content in ('{"version": "1.0", "trunc', "[]", "3", "", "\x00"):
            (folder / name).write_text(content)
            with pytest.raises(UserError, match=rf"{name}: is not a tokenizer\n  copy the model's files again"):
                load_tokenizer(str(folder))
        (folder / name).write_text(whole)
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nonsense"}}')
    with pytest.raises(UserError, match="no tokenizer can be read there: KeyError"):
        load_tokenizer(str(folder))
    with pytest.raises(UserError, match="no tokenizer can be read there"):
        load_tokenizer(str(tmp_path / "none"))


def test_a_tokenizer_without_a_pad_token_pads_with_the_end(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).pad_token_id == tiny.EOS


def test_a_chat_template_takes_the_place_of_the_tokenizers_own_and_is_saved(tmp_path: Path) -> None:
    tiny.tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    assert load_tokenizer(str(tmp_path)).chat_template is None
    for value, part in (
        ("chatml", "'<|im_start|>'"),
        ("llama3", "start_header_id"),
        (f"{tmp_path}/chat.jinja", "m['content']"),
    ):
        given = load_tokenizer(str(tmp_path), chat_template=value)
        assert part in given.chat_template
        given.save_pretrained(tmp_path / "saved")
        assert load_tokenizer(str(tmp_path / "saved")).chat_template == given.chat_template
    with pytest.raises(UserError, match="no chat template 'chatlm'"):
        load_tokenizer(str(tmp_path), chat_template="chatlm")
