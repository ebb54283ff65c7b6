"""A checkpoint is gone on from on other ranks, another ZeRO stage, with offload: the same weights to the last bit, the
same next step to rounding, and steps later no further apart than layouts ever are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from distft.config.adapters.lora import Lora
from distft.config.optimizers.sgd import Sgd
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import RATE, Setup
from tests.unit.engine.test_engine import slow, spread

SAMPLES = [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10], [1, 5, 2, 6, 3, 8], [9, 4], [3, 7, 1]]
SAVED_AFTER = 2
LORA = Lora(r=4, alpha=8.0)
OFFLOADED = {"offload_optimizer": "cpu"}
ALL_ON_HOST = OFFLOADED | {"offload_parameters": "cpu"}
Layout = tuple[int, int, dict[str, str]]  # ranks, stage, offload


def split(num_ranks: int) -> list[Any]:
    """[step][rank][micro-batch]: a sample each, dealt out in turn; an empty one is dummy work."""
    dealt = []
    for samples in SAMPLES:
        most = -(-len(samples) // num_ranks)
        mine = ([[sample] for sample in samples[rank::num_ranks]] for rank in range(num_ranks))
        dealt.append([[*micro, *[[]] * (most - len(micro))] for micro in mine])
    return dealt


@pytest.fixture(scope="module")
def of_any_size(groups: dict[int, Group]) -> Iterator[dict[int, Group]]:
    """With four ranks too."""
    with Group(4) as four:
        yield groups | {4: four}


def go_on(
    groups: dict[int, Group], folder: str, place: Path, layouts: tuple[Layout, Layout], dtype: str, lora: bool
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Rank 0's answer of the layout that saved and went on, and the answers of all ranks of the other."""
    setups = [
        Setup(folder, stage, dtype, adapter=LORA if lora else None, threshold=200, engine=offload)
        for _, stage, offload in layouts
    ]
    (first, *_), (second, *_) = layouts
    steps = split(first)
    saved = groups[first].call(
        rank_side.train_and_save, setups[0], str(place), steps[:SAVED_AFTER], steps[SAVED_AFTER:]
    )
    then = split(second)[SAVED_AFTER:]
    return saved[0], groups[second].call(rank_side.load_and_go_on, setups[1], str(place), then)


def check(wanted: dict[str, Any], found: list[dict[str, Any]], dtype: str) -> None:
    for answer in found:
        assert spread(answer["kept"], wanted["kept"]) == (0.0, 0.0)
        if dtype == "float16":
            continue  # which sums are infinite, and so which steps are skipped, depends on the number of ranks
        assert spread(answer["kept"], wanted["weights"])[1] > RATE  # the steps after it did something
        mean, most = spread(answer["weights"], wanted["weights"])
        if dtype == "float32":
            assert answer["norms"][0] == pytest.approx(wanted["norms"][0], rel=1e-5)
            assert answer["norms"] == pytest.approx(wanted["norms"], rel=1e-4)
            assert (mean < 1e-6, most < 0.01 * RATE) == (True, True)
        else:
            assert answer["norms"] == pytest.approx(wanted["norms"], rel=0.03)
            assert mean < 0.3 * RATE


TO_ONE = ((2, 3, {}), (1, 0, {}))
TO_STAGE_2 = ((2, 3, {}), (2, 2, {}))
BACK = ((1, 0, {}), (2, 3, OFFLOADED))


@pytest.mark.parametrize(("layouts", "dtype", "lora"), [
    (TO_ONE, "float32", False), (TO_STAGE_2, "float32", True), (BACK, "bfloat16", False),
    slow(TO_ONE, "float32", True), slow(TO_ONE, "bfloat16", False), slow(TO_ONE, "bfloat16", True),
    slow(TO_STAGE_2, "float32", False), slow(TO_STAGE_2, "bfloat16", False), slow(BACK, "float32", True),
])  # fmt: skip
def test_another_layout_goes_on(
    groups: dict[int, Group], folder: str, tmp_path: Path, layouts: tuple[Layout, Layout], dtype: str, lora: bool
) -> None:
    wanted, found = go_on(groups, folder, tmp_path, layouts, dtype, lora)
    check(wanted, found, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("layouts", [
    ((2, 3, {}), (4, 3, {})), ((4, 3, {}), (2, 3, {})), ((4, 3, {}), (1, 0, {})), ((4, 2, {}), (2, 0, {})),
    ((2, 0, {}), (4, 2, {})), ((2, 0, {}), (2, 1, {})), ((2, 1, OFFLOADED), (4, 3, {})), ((2, 2, {}), (2, 3, {})),
    ((2, 3, ALL_ON_HOST), (2, 2, OFFLOADED)), ((4, 1, {}), (1, 3, ALL_ON_HOST)), ((1, 3, ALL_ON_HOST), (2, 0, {})),
])  # fmt: skip
def test_any_layout_goes_on_from_any(
    of_any_size: dict[int, Group], folder: str, tmp_path: Path, layouts: tuple[Layout, Layout], dtype: str, lora: bool
) -> None:
    for group in of_any_size.values():
        group.call(rank_side.allow_float16)
    check(*go_on(of_any_size, folder, tmp_path, layouts, dtype, lora), dtype)


def test_what_is_not_the_same_training_is_refused_by_name_on_all_ranks(
    groups: dict[int, Group], folder: str, untied: str, tmp_path: Path
) -> None:
    steps = split(1)
    groups[1].call(rank_side.train_and_save, Setup(folder, 0), str(tmp_path), steps[:1], [])
    other = groups[2].call(rank_side.refused_load, Setup(untied, 3), str(tmp_path))
    assert other[0] == other[1]
    assert "the checkpoint is of other weights: model.lm_head.weight is not trained there, of shape [" in other[0]
    sgd = Setup(folder, 2, optimizer=Sgd(learning_rate=RATE))
    (said, _) = groups[2].call(rank_side.refused_load, sgd, str(tmp_path))
    assert f"{tmp_path}: the checkpoint has the states of adamw, the recipe trains with sgd" in said


def test_every_number_is_written_once_whatever_the_layout(
    groups: dict[int, Group], folder: str, tmp_path: Path
) -> None:
    """Weights and Adam's two states in float32: twelve bytes a parameter, which is what the plan counts."""
    sizes = {}
    for number, (ranks, stage) in enumerate(((1, 0), (2, 0), (2, 1), (2, 2), (2, 3))):
        place = tmp_path / str(number)
        groups[ranks].call(rank_side.train_and_save, Setup(folder, stage, "bfloat16"), str(place), split(ranks)[:1], [])
        count = 0
        for path in place.iterdir():
            with safe_open(path, "pt") as file:
                count += sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118 - no mapping
                shapes = json.loads(file.metadata()["facts"])["shapes"]
        numel = sum(rows * (rest[0] if rest else 1) for rows, *rest in shapes.values())
        sizes[ranks, stage] = count / numel
    assert set(sizes.values()) == {12.0}
