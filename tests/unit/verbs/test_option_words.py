"""Errors name what was typed: options where there were options, and keys of a recipe only where one was named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.verbs.option_words import in_options
from tests.reference.tiny_models import save_t5, train_tokenizer
from tests.unit.verbs.conftest import Typed


def told(*, recipe: bool, what: str, hint: str) -> str:
    with pytest.raises(UserError) as caught, in_options(recipe=recipe):
        raise UserError(what, where="rows.jsonl:1", hint=hint)
    return str(caught.value)


def test_a_row_over_the_limit(speaker: str, distft: Typed, tmp_path: Path) -> None:
    """And what it says to do works."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": [{"role": "user", "content": "Where is my other kettle? " * 9}]}))
    judge = ("eval", speaker, "--data", str(rows), "max_new_tokens=2")
    status, _, error = distft(*judge, "--max-length", "8")
    assert status == 2
    assert "--max-length is 8" in error
    assert "raise --max-length, or leave the row out" in error
    assert "data." not in error
    assert distft(*judge, "--max-length", "200")[0] == 0


def test_an_encoder_decoder_has_what_is_typed_for_prompt_and_answer_each(distft: Typed, tmp_path: Path) -> None:
    texts = ["Where is my other kettle?", "On the shelf, I think."]
    model, rows = save_t5(tmp_path / "t5", train_tokenizer(texts, 300)), tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Where? " * 6, "completion": "On the shelf. " * 6}))
    judge = ("eval", model, "--data", rows, "--no-answers", "--json", "--max-length")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    longest = len(tokenizer("On the shelf. " * 6)["input_ids"]) + 1  # the end of the answer
    status, output, error = distft(*judge, str(longest))
    assert (status, json.loads(output)["notes"]) == (0, []), error
    _, output, _ = distft(*judge, str(longest - 1))
    assert "1 of 1 rows are longer than allowed and were cut: --max-length N takes more" in json.loads(output)["notes"]


def test_too_few_rows_to_hold_some_out(speaker: str, distft: Typed, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "Where is it?", "completion": "There."}) + "\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "final").symlink_to(speaker)
    words = (f"models.policy={{path: {speaker}, dtype: float32}}", f"output_dir={tmp_path / 'run'}",
             f"data={{train: [{{path: {rows}}}], holdout: 0.05}}")  # fmt: skip
    status, _, error = distft("eval", "sft-tiny", *words, "--no-answers")
    assert (status, "--split train by those that it was trained on" in error) == (2, True), error
    assert distft("eval", "sft-tiny", *words, "--no-answers", "--split", "train")[0] == 0


def test_a_template_that_refuses_a_prompt(speaker: str, distft: Typed, tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ raise_exception('no') }}")
    ask = ("generate", speaker, "--prompt", "Hello", "max_new_tokens=2")
    status, _, error = distft(*ask, "--chat-template", template)
    assert status == 2
    assert "--chat-template takes another template" in error
    assert "models." not in error


@pytest.mark.parametrize(
    ("what", "hint", "expected"),
    [
        ("x", "models.policy.chat_template=chatml gives it one", "--chat-template chatml gives it one"),
        ("x", "models.policy.trust_remote_code=true runs it", "--trust-remote-code runs it"),
        ("x", "trust_remote_code: true beside the path runs it", "--trust-remote-code runs it"),
        ("x", "name one on the source, such as `split: a`; a source each for more than one", "such as `--split a`"),
        ("the row has 9 tokens, data.max_length is 8", "raise it", "--max-length is 8"),
    ],
)
def test_keys_that_are_options_too(what: str, hint: str, expected: str) -> None:
    assert expected in told(recipe=False, what=what, hint=hint)
    assert expected in told(recipe=True, what=what, hint=hint)


@pytest.mark.parametrize(
    ("hint", "otherwise"),
    [
        ("cut it; data.on_bad_row=drop leaves such rows out", "cut it; mend the row, or leave it out"),
        ("`columns: {in the file: of the format}` on the source renames", "rename them in the file"),
        ("raise it, or set `data.overlong` to truncate or drop", "raise it, or leave the row out"),
    ],
)
def test_keys_that_only_a_recipe_has(hint: str, otherwise: str) -> None:
    assert hint in told(recipe=True, what="x", hint=hint)
    assert told(recipe=False, what="x", hint=hint).endswith(f"\n  {otherwise}")
