"""The card beside the weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from distft.models.tokenizer import load_tokenizer
from distft.report.model_card import CARD, card, write_card
from distft.report.run_data import read_run
from tests.unit.models.encoder_decoders import write_encoder_decoder
from tests.unit.workers.answer_value_side import plain_values, read

from .conftest import MakeRun

CAUSAL = "AutoModelForCausalLM"


def test_the_card_says_what_the_run_folder_knows(make_run: MakeRun, tmp_path: Path) -> None:
    write_card(make_run(), tmp_path, CAUSAL, answers=True)
    _, head, text = (tmp_path / CARD).read_text().split("---\n", 2)
    assert yaml.safe_load(head) == {"library_name": "transformers", "tags": ["distft", "ppo"]}
    assert "# ppo-tiny" in text
    assert "- Trained on: builtin:dialogues" in text
    assert "## On 96 of 300 test rows" in text
    assert "| Score, held out (`objective/score`) | 0 | 5 |" in text
    assert f'{CAUSAL}.from_pretrained("FOLDER")' in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["algorithm"]["kind"] == "ppo"
    assert "Made with distft" in text


def test_a_model_of_the_hub_is_named_for_the_hub_and_one_that_scores_is_not_talked_to(make_run: MakeRun) -> None:
    run_dir = make_run()
    tree = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    tree["models"]["policy"] = {"path": "someone/some-model"}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(tree))
    text = "\n".join(card(read_run(run_dir), "AutoModelForSequenceClassification", answers=False))
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == "someone/some-model"
    assert "PPO of someone/some-model by distft." in text
    assert "distft chat" not in text


def test_a_card_shows_how_an_encoder_decoder_scores(make_run: MakeRun, tmp_path: Path) -> None:
    """What it shows is what the model says of a prompt and an answer."""
    folder = write_encoder_decoder(tmp_path / "seq2seq", "flan-t5")
    model = read(folder)
    model.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(folder)
    tokenizer.save_pretrained(tmp_path)
    lines = card(read_run(make_run()), "AutoModelForSequenceClassification", answers=False, apart=True)
    shown = "\n".join(re.findall(r"```python\n(.*?)```", "\n".join(lines), re.DOTALL))
    named: dict[str, Any] = {}
    exec(shown.replace("FOLDER", str(tmp_path)), named)
    prompt, answer = (tokenizer(text)["input_ids"] for text in ("a prompt", "an answer"))
    assert named["score"].item() == pytest.approx(plain_values(read(tmp_path), prompt, answer)[-1].item())


def test_virtual_tokens_are_read_beside_their_base_and_served_by_nobody(make_run: MakeRun) -> None:
    run_dir = make_run()
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    recipe["models"]["policy"]["peft"] = {"method": "prompt"}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = "\n".join(card(read_run(run_dir), CAUSAL, answers=True))
    assert 'model = PeftModel.from_pretrained(model, "FOLDER/adapter")' in text
    assert "vllm serve" not in text


def test_adapters_that_only_distft_reads_are_said_to_be_missing(make_run: MakeRun) -> None:
    run_dir = make_run()
    recipe = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    recipe["models"]["policy"]["peft"] = {"method": "bottleneck"}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = "\n".join(card(read_run(run_dir), CAUSAL, answers=True))
    assert "# without what was trained: adapters that only distft reads, in FOLDER/adapter" in text
    assert "`distft chat FOLDER` talks to it." in text
    assert "vllm serve" not in text


def test_a_folder_is_no_base_model_of_the_hub(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run()
    tree = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    tree["models"]["policy"] = {"path": "runs/sft"}
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "runs" / "sft").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    text = "\n".join(card(read_run(run_dir), CAUSAL, answers=True))
    assert "base_model" not in yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize(
    ("best", "told"), [(None, "- Evaluated on: builtin"), ("objective/score", "- Chosen by: builtin")]
)
def test_only_rows_that_chose_are_said_to_have_chosen(make_run: MakeRun, best: str | None, told: str) -> None:
    run_dir = make_run()
    tree = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    tree["evaluation"]["best"] = best
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert told in "\n".join(card(read_run(run_dir), CAUSAL, answers=True))


def test_what_is_missing_is_left_out(make_run: MakeRun) -> None:
    run_dir = make_run()
    for name in ("before_after.json", "environment.json", "metrics.jsonl"):
        (run_dir / name).unlink()
    text = "\n".join(card(read_run(run_dir), CAUSAL, answers=True))
    assert "No held-out rows were there to judge it by." in text
    assert "Made with versions that are not known." in text
