"""The folder that ``sentence-transformers`` reads; a model of texts is nothing that speaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.launch.named_models import find_model, require_speakers
from distft.launch.sentence_folder import write_sentence_folder
from tests.unit.models.encoders import write_encoder


@pytest.mark.parametrize(("pooling", "mode"), [("mean", "mean_tokens"), ("cls", "cls_token"), ("last", "lasttoken")])
def test_how_states_become_a_vector_is_written_beside_them(tmp_path: Path, pooling: str, mode: str) -> None:
    folder = Path(write_encoder(tmp_path / "bert", "bert"))
    write_sentence_folder(load_recipe("contrastive-tiny", [f"algorithm.pooling={pooling}"]), folder)
    modules = json.loads((folder / "modules.json").read_text())
    assert [(one["idx"], one["path"], one["type"].rpartition(".")[2]) for one in modules] == [
        (0, "", "Transformer"), (1, "1_Pooling", "Pooling"), (2, "2_Normalize", "Normalize"),
    ]  # fmt: skip
    said = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert said["word_embedding_dimension"] == 16
    assert [name for name, value in said.items() if name.startswith("pooling_mode") and value] == [
        f"pooling_mode_{mode}"
    ]
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 64
    with pytest.raises(UserError, match=r"is a model of texts: .*writes no answers\n.*sentence-transformers reads"):
        require_speakers([find_model(str(folder), tmp_path)])


def test_of_other_runs_nothing_is_written(tmp_path: Path) -> None:
    write_sentence_folder(load_recipe("mlm-tiny"), tmp_path)
    assert not list(tmp_path.iterdir())
