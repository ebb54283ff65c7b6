"""What a quantized export of a run that learned from prompts says of its cost."""

from __future__ import annotations

import json
from pathlib import Path

from distft.config.load import load_recipe
from distft.launch.quantized_export import quantize
from distft.report.model_card import CARD
from tests.reference.tiny_models import save_llama, train_tokenizer


def said_of(folder: Path, prompts: list[str]) -> str:
    plain, rows = save_llama(folder / "plain", train_tokenizer(["a b c d"], 300)), folder / "rows.jsonl"
    (plain / CARD).write_text("# plain\n")
    rows.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in prompts))
    recipe = load_recipe("grpo-tiny", [f"data.{name}=[{{path: {rows}}}]" for name in ("train", "eval", "test")])
    said = quantize(plain, folder / "out", "w8a16", recipe)
    assert said in (folder / "out" / CARD).read_text()
    return said


def test_it_is_measured_on_the_prompts(tmp_path: Path) -> None:
    assert "; on 2 rows of data.test perplexity " in said_of(tmp_path, ["a b c", "c b a"])


def test_rows_of_one_token_say_nothing_of_next_ones(tmp_path: Path) -> None:
    said = said_of(tmp_path, ["a", "b", "c"])
    assert said.endswith("what that costs was not measured: no row of data.test has two tokens")
