"""Models that the run makes before it begins: those with new tokens. Those from nothing: ``models.start``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.data.tokenizer_training import train_tokenizer
from distft.launch.starts import model_starts
from distft.models.tokenizer import load_tokenizer
from distft.workers.data_worker import DataWorker
from tests.reference.tiny_models import save_llama, save_t5

ROWS = [{"prompt": f"Is {i} a cat?", "chosen": " It is.", "rejected": " Who knows?"} for i in range(8)]
NEW = ["a cat", " It is", "."]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., DataWorker]:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    tokenizer = train_tokenizer((" ".join(row.values()) for row in ROWS), 300)
    save_llama(tmp_path / "model", tokenizer)
    save_llama(tmp_path / "other", tokenizer, seed=2)
    save_t5(tmp_path / "t5", tokenizer)

    def worker(*overrides: str, weights: bool = True) -> DataWorker:
        recipe = load_recipe(
            "dpo-tiny",
            [f"output_dir={tmp_path}", f"models.policy={{path: {tmp_path / 'model'}, dtype: float32}}",
             f"models.policy.extend_vocabulary={json.dumps(NEW)}", f"data.train=[{{path: {tmp_path / 'rows.jsonl'}}}]",
             "data.eval=[]", "data.test=[]", "evaluation.every=0", *overrides],
        )  # fmt: skip
        made = DataWorker(recipe=recipe, starts=model_starts(recipe, tmp_path), weights=weights)
        made.report = made.setup()[0]  # type: ignore[attr-defined]
        return made

    return worker


def test_the_extended_model_lies_with_the_run_and_all_begin_from_it(
    make: Callable[..., DataWorker], tmp_path: Path
) -> None:
    worker = make()
    folder = tmp_path / "init" / "policy"
    assert {start.path for start in worker.data.starts.values()} == {str(folder)}
    ids = worker.data.tokenizer("Is 3 a cat? It is.", add_special_tokens=False)["input_ids"]
    added = sorted(set(ids) & set(worker.data.tokenizer.convert_tokens_to_ids(["a cat", " It is"])))
    assert len(added) == 2
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_input_embeddings().num_embeddings == max(added) + 1
    assert worker.report.warnings == (  # type: ignore[attr-defined]
        "models.policy.extend_vocabulary: 1 of 3 texts are tokens already, and stay as they are",
    )
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = make()  # as a run that goes on
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert again.report.warnings == worker.report.warnings  # type: ignore[attr-defined]


def test_other_tokens_than_the_run_began_with(make: Callable[..., DataWorker]) -> None:
    make()
    with pytest.raises(UserError, match="not the tokens that the run began with") as caught:
        make("models.policy.extend_vocabulary=[a cat, Who]")
    assert caught.value.where == "models.policy.extend_vocabulary"


def test_another_reference_must_have_them_too(make: Callable[..., DataWorker], tmp_path: Path) -> None:
    own = [f"models.reference.path={tmp_path / 'other'}", "models.reference.differs=true"]
    with pytest.raises(UserError, match="its tokenizer is not the policy's"):
        make(*own)
    worker = make(*own, f"models.reference.extend_vocabulary={json.dumps(NEW)}")
    assert worker.data.starts["reference"].path == str(tmp_path / "init" / "reference")
    assert load_tokenizer(worker.data.starts["reference"].path).get_vocab() == worker.data.tokenizer.get_vocab()


def test_an_encoder_decoder_has_them_on_both_sides(make: Callable[..., DataWorker], tmp_path: Path) -> None:
    worker = make(f"models.policy.path={tmp_path / 't5'}")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "init" / "policy")
    rows = len(worker.data.tokenizer)
    assert model.get_encoder().get_input_embeddings().num_embeddings == rows
    assert model.get_decoder().get_input_embeddings().num_embeddings == rows
    for refused, said in (("marian", "a vocabulary for each of its sides"), ("bert", "and bert is an encoder")):
        config = json.loads((tmp_path / "t5" / "config.json").read_text())
        config |= {"model_type": refused, "is_encoder_decoder": refused == "marian"}
        (tmp_path / "t5" / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match=said):
            make(f"models.policy.path={tmp_path / 't5'}")


def test_a_rehearsal_needs_no_weights(make: Callable[..., DataWorker], tmp_path: Path) -> None:
    make(weights=False)
    assert not list((tmp_path / "init" / "policy").glob("*.safetensors"))
