"""Loading into shards gives what a plain load gives, buffers too, and ends for all ranks together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import Setup


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", ["folder", "untied", "gemma"])
def test_shards_are_the_file(groups: dict[int, Group], request: pytest.FixtureRequest, model: str, dtype: str) -> None:
    path = request.getfixturevalue(model)
    for answer in groups[2].call(rank_side.load_sharded, Setup(path, 3, dtype)):
        assert answer["zero3"] == (True, False)
        wanted = answer["expected"]
        assert set(answer["causal"]) == set(wanted)
        assert all(np.array_equal(answer["causal"][name], wanted[name]) for name in wanted)
        assert answer["fresh"]
        assert np.linalg.norm(answer["scalar"].pop("model.score.weight")) > 0
        assert set(answer["scalar"]) == set(wanted) - {"model.lm_head.weight"}
        assert all(np.array_equal(tensor, wanted[name]) for name, tensor in answer["scalar"].items())
        assert len(answer["buffers"]) == len(answer["plain_buffers"]) > 0
        for (name, kind, values), (_, plain_kind, plain) in zip(
            answer["buffers"], answer["plain_buffers"], strict=True
        ):
            assert kind == plain_kind, name
            assert np.array_equal(values, plain), name
        assert answer["difference"] < (1e-5 if dtype == "float32" else 1e-9)
        assert answer["scores"].dtype == np.float32
        assert not np.array_equal(answer["scores"], answer["coarse_scores"])  # the head's digits, not the backbone's
        assert answer["head_moved"] > 0


def test_fresh_heads_are_the_same_on_every_layout(groups: dict[int, Group], folder: str) -> None:
    heads = []
    for world_size, stage in ((1, 3), (2, 3), (1, 0)):
        for answer in groups[world_size].call(rank_side.load_sharded, Setup(folder, stage)):
            heads.append(answer["scalar"]["model.score.weight"])
    assert all(np.array_equal(head, heads[0]) for head in heads)


@pytest.mark.parametrize("stage", [0, 3])
def test_weights_of_another_size_end_all_ranks_with_the_same_words(
    groups: dict[int, Group], folder: str, tmp_path: Path, stage: int
) -> None:
    """Under zero.Init only rank 0 reads the weights, so only it can notice; the others must not wait for it."""
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text()) | {"vocab_size": 100}
    (broken / "config.json").write_text(json.dumps(config))
    answers = groups[2].call(rank_side.load_broken, Setup(str(broken), stage))
    assert answers[0] == answers[1]
    assert answers[0][0] == "UserError"
    assert "do not have the sizes" in answers[0][1]
    assert not answers[0][2]


@pytest.mark.parametrize("stage", [0, 3])
def test_weights_that_are_no_numbers_end_all_ranks_with_the_same_words(
    groups: dict[int, Group], folder: str, tmp_path: Path, stage: int
) -> None:
    """In the last element, which under zero.Init lies on the last rank, before its padding."""
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    name = "model.layers.1.mlp.down_proj.weight"
    weights = load_file(broken / "model.safetensors")
    weights[name][-1, -1] = float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    answers = groups[2].call(rank_side.load_broken, Setup(str(broken), stage))
    assert answers[0] == answers[1]
    assert answers[0][0] == "UserError"
    assert f"{name} holds NaN or infinity" in answers[0][1]


USER = ("UserError", "here: bad {0}")
ODD = ("ValueError", "odd {0}")
TOLD = ("DistftError", "rank {0} failed: ValueError('odd {0}')")


@pytest.mark.parametrize(
    ("errors", "first", "raised"),
    [
        (["", "user"], 1, [USER, USER]),
        (["", "other"], 1, [TOLD, ODD]),
        (["user", "user"], 0, [USER, USER]),
        (["other", "user"], 0, [ODD, TOLD]),
    ],
)
def test_the_first_ranks_failure_is_everyones(
    groups: dict[int, Group], errors: list[str], first: int, raised: list[tuple[str, str]]
) -> None:
    answers = groups[2].call(rank_side.fail, errors)
    assert answers == [(kind, words.format(first)) for kind, words in raised]
    assert groups[1].call(rank_side.reduce) == [([1.0, 2.0**-60], [1.0, 2.0**-60], [1.0, 2.0**-60])]


def test_scalars_are_reduced_in_float64(groups: dict[int, Group]) -> None:
    assert groups[2].call(rank_side.reduce) == [([3.0, 2.0**-59], [1.0, 2.0**-60], [2.0, 2.0**-60])] * 2
