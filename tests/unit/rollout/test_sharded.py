"""Generation beside a sharded trainer: the twin, the shards themselves, and the trainer agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.engine.group import Group
from tests.unit.models import tiny
from tests.unit.rollout import rank_side


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.write_model(Path(tmp_path_factory.mktemp("llama")), "llama")


def test_the_twin_the_shards_and_one_rank_give_the_same_tokens(groups: dict[int, Group], folder: str) -> None:
    (alone,) = groups[1].call(rank_side.twin_and_sharded, folder, "float32", 3)
    together = groups[2].call(rank_side.twin_and_sharded, folder, "float32", 3)
    tokens = {sample: found[0] for sample, found in alone["twin"].items()}
    assert len(tokens) == 5
    assert any(len(response) < 10 for response in tokens.values())  # the ranks stop at different times
    for kind in ("twin", "shards"):
        merged = {sample: found[0] for rank in together for sample, found in rank[kind].items()}
        assert merged == tokens, kind
        assert {sample: found[0] for sample, found in alone[kind].items()} == tokens, kind


def test_recorded_logprobs_are_the_trainers(groups: dict[int, Group], folder: str) -> None:
    for rank in groups[2].call(rank_side.twin_and_sharded, folder, "float32", 3):
        for sample, wanted in rank["trainer"].items():
            assert rank["twin"][sample][1] == pytest.approx(wanted, rel=1e-5, abs=1e-5)
            assert rank["shards"][sample][1] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("stage", [0, 2])
def test_a_twin_of_a_whole_model_too(groups: dict[int, Group], folder: str, stage: int) -> None:
    for rank in groups[2].call(rank_side.twin_and_sharded, folder, "float32", stage):
        for sample, wanted in rank["trainer"].items():
            assert rank["twin"][sample][0] == rank["shards"][sample][0]
            assert rank["twin"][sample][1] == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_in_bfloat16_the_twin_is_the_trainer_within_its_precision(groups: dict[int, Group], folder: str) -> None:
    differences = []
    for rank in groups[2].call(rank_side.twin_and_sharded, folder, "bfloat16", 3):
        for sample, wanted in rank["trainer"].items():
            found = rank["twin"][sample][1]
            differences += [abs(a - b) for a, b in zip(found, wanted, strict=True)]
    assert len(differences) > 20
    assert sum(differences) / len(differences) < 0.02


def test_generating_with_the_shards_does_not_disturb_training(groups: dict[int, Group], folder: str) -> None:
    generated = [rank["norms"] for rank in groups[2].call(rank_side.twin_and_sharded, folder, "float32", 3)]
    undisturbed = groups[2].call(rank_side.only_train, folder, "float32", 3)
    assert generated == undisturbed
