"""Where two runs part, on recorded steps made by hand: what is named, and what on another layout cannot be."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from distft.report.bisect import FLOAT32, Flight, bisect
from distft.tracking.flight import ColumnTrace, RankTrace, StepTrace

NORMS = {"embedding": 3.0, "block 0": 4.0, "head": 1e-5}


def update(digests: dict[int, int], **changed: Any) -> StepTrace:
    """A rank's step; ``digests``: of what each sample is read as."""
    total, count = sum(digest * 1_000_003 for digest in digests.values()), float(len(digests))
    whole, number = ColumnTrace(total), ColumnTrace(total, 0.5 * count, count)
    made = StepTrace(
        (tuple(digests),), tuple(digest | digest << 32 for digest in digests.values()),
        {"prompt_ids": whole, "response_mask": whole, "advantages": number, "ref_logprobs": number},
        {"logprobs": ColumnTrace(total, -count, count)}, 0.25 * count, NORMS, NORMS,
    )  # fmt: skip
    return replace(made, **changed)


def inputs(**changed: ColumnTrace) -> dict[str, ColumnTrace]:
    """Those of the second of ``two_ranks``, with others in the place of some."""
    return {**two_ranks()[1].updates[0].inputs, **changed}


def samples(one: int, other: int) -> tuple[int, ...]:
    """Digests of the second's two samples."""
    return tuple(digest | digest << 32 for digest in (one, other))


def rank(*updates: StepTrace, stage: int = 0, shared_by: int = 1, dtype: str = "float32") -> RankTrace:
    return RankTrace(stage, shared_by, dtype, updates)


def two_ranks(**of_second: Any) -> tuple[RankTrace, ...]:
    """Of which the second may differ."""
    return rank(update({0: 11, 2: 13})), rank(update({1: 12, 3: 14}, **of_second))


def flight(*steps: dict[str, tuple[RankTrace, ...]]) -> Flight:
    return dict(enumerate(steps, 1))


def first(one: Flight, other: Flight, tolerance: float | None = None) -> tuple[Any, ...]:
    """Step, role and optimizer step, stage and tensor of the first difference."""
    found = bisect(one, other, tolerance).found[0]
    return found.step, found.role, found.update, found.what.stage, found.what.tensor


SAME = {"policy": two_ranks()}


def test_equal_runs_do_not_differ() -> None:
    found = bisect(flight(SAME, SAME, SAME), flight(SAME, SAME))
    assert (found.equal_until, found.found, found.alone) == (2, (), (1, 0))
    assert (found.layouts, found.tolerances) == ({}, {})
    json.dumps(found.as_json(), allow_nan=False)


def test_the_first_step_rank_tensor_and_sample_are_named() -> None:
    wrong = two_ranks(
        samples=samples(12, 99), loss=0.4,
        inputs=inputs(response_mask=ColumnTrace(1), advantages=ColumnTrace(2, 1.5, 2.0)),
        weights={**NORMS, "head": 2.0},
    )  # fmt: skip
    found = bisect(flight(SAME, SAME, SAME, SAME), flight(SAME, SAME, {"policy": wrong}, {"policy": wrong}))
    assert found.equal_until == 2
    told = [(one.step, one.what.stage, one.what.tensor, one.what.ranks, one.what.samples) for one in found.found]
    assert told == [
        (3, "inputs", "response_mask", (1,), (3,)),
        (3, "inputs", "advantages", (1,), (3,)),
        (3, "loss", "loss", (1,), ()),
        (3, "weights", "head", (1,), ()),
    ]
    assert found.found[2].what.apart == pytest.approx(0.2)  # 0.1 of the greater one, 0.5
    assert found.as_json()["differences"][0]["ranks"] == (1,)


@pytest.mark.parametrize(("changed", "stage", "tensor"), [
    ({"outputs": {"logprobs": ColumnTrace(5, -2.0, 2.0)}, "loss": 1.0}, "outputs", "logprobs"),
    ({"loss": math.nextafter(0.5, 1), "gradients": {**NORMS, "head": 1.0}}, "loss", "loss"),
    ({"gradients": {**NORMS, "block 0": 4.000001, "head": 2e-5}, "weights": {**NORMS, "head": 1.0}},
     "gradients", "head"),
    ({"gradients": None, "weights": {**NORMS, "head": 1.0}}, "gradients", "none: the second run passed the step over"),
    ({"weights": {**NORMS, "head": 1.0000001e-5}}, "weights", "head"),
])  # fmt: skip
def test_causes_come_before_what_follows(changed: dict[str, Any], stage: str, tensor: str) -> None:
    assert first(flight(SAME, SAME), flight(SAME, {"policy": two_ranks(**changed)})) == (2, "policy", 1, stage, tensor)


def test_of_several_optimizer_steps_the_first_and_of_roles_each() -> None:
    usual, wrong = update({0: 1}), update({0: 1}, loss=9.0)
    one = flight({"value": (rank(usual, usual, usual),), "policy": (rank(usual, usual, usual),)})
    other = flight({"value": (rank(usual, usual, wrong),), "policy": (rank(usual, wrong, usual),)})
    assert first(one, other) == (1, "policy", 2, "loss", "loss")
    assert [found.role for found in bisect(one, other).found] == ["policy", "value"]
    fewer = flight({"value": (rank(usual, usual, usual),), "policy": (rank(usual, usual),)})
    told = (1, "policy", 3, "optimizer steps", "3 in the first run, 2 in the second")
    assert first(one, fewer) == told
    assert first(one, flight({"value": one[1]["value"]}))[1:4] == ("policy", 1, "optimizer steps")


def test_weights_that_a_run_was_begun_or_resumed_with_come_first() -> None:
    begun = {"policy": (rank(update({0: 1}, before=NORMS)),)}
    others = {"policy": (rank(update({0: 1}, before={**NORMS, "block 0": 5.0}, loss=9.0)),)}
    assert first(flight(begun), flight(others)) == (1, "policy", 1, "weights before", "block 0")
    plain = {"policy": (rank(update({0: 1})),)}
    assert first(flight(plain, plain), flight(plain, others)) == (2, "policy", 1, "weights before", "block 0")
    assert not bisect(flight(plain, begun), flight(plain, plain)).found, (
        "what the step before left is what it began with"
    )


ALONE = {"policy": (rank(update({0: 11, 1: 12, 2: 13, 3: 14})),)}


def test_on_other_ranks_inputs_are_compared_by_sample_and_sums_to_rounding() -> None:
    near = {name: norm * (1 + 0.5 * FLOAT32) for name, norm in NORMS.items()}
    other = flight({"policy": (rank(update({0: 11, 2: 13}, weights=near, loss=0.500001)), two_ranks()[1])})
    found = bisect(flight(ALONE), other)
    assert found.found == ()
    assert found.layouts == {"policy": "1 rank at ZeRO stage 0 in the first run, 2 ranks at ZeRO stage 0 in the second"}
    assert found.tolerances == {"policy": FLOAT32}
    wrong = flight({"policy": two_ranks(samples=samples(12, 15), inputs=inputs(response_mask=ColumnTrace(7)))})
    (told,) = bisect(flight(ALONE), wrong).found
    assert (told.what.stage, told.what.tensor, told.what.samples) == ("inputs", "response_mask", (3,))
    assert first(flight(ALONE), flight({"policy": two_ranks(loss=0.6)}))[3:] == ("loss", "loss")
    far = two_ranks(inputs=inputs(advantages=ColumnTrace(7, 1.5, 2.0)))
    assert first(flight(ALONE), flight({"policy": far}))[3:] == ("inputs", "advantages")
    off = two_ranks(outputs={"logprobs": ColumnTrace(1, -2.1, 2.1)})
    assert first(flight(ALONE), flight({"policy": off}))[3:] == ("outputs", "logprobs")


def test_shares_of_sharded_ranks_are_put_together() -> None:
    half = {name: norm / math.sqrt(2) for name, norm in NORMS.items()}
    sharded = tuple(
        rank(update(samples, gradients=half, weights=half), stage=3) for samples in ({0: 11, 2: 13}, {1: 12, 3: 14})
    )
    assert not bisect(flight(ALONE), flight({"policy": sharded})).found
    assert first(flight(ALONE), flight({"policy": sharded[:1] * 2}))[3:] == ("inputs", "samples")


def test_ranks_that_share_rows_count_once() -> None:
    whole = ALONE["policy"][0].updates[0]
    shared = tuple(rank(replace(whole, loss=whole.loss / 2), shared_by=2) for _ in range(2))
    assert not bisect(flight(ALONE), flight({"policy": shared})).found


def test_samples_dealt_otherwise_are_another_layout() -> None:
    dealt = {"policy": (rank(update({0: 11, 3: 14})), rank(update({1: 12, 2: 13})))}
    found = bisect(flight(SAME), flight(dealt))
    assert not found.found
    told = "2 ranks at ZeRO stage 0 in both, but samples are dealt to other ranks or micro-batches"
    assert found.layouts == {"policy": told}


def test_samples_that_one_of_the_runs_has_too_many_of_to_tell_do_not_differ_by_that() -> None:
    """Of more than 256 on a rank none is told: fewer ranks have more of them each."""
    untold = {"micro_batches": None, "samples": None}
    alone = flight({"policy": (rank(replace(ALONE["policy"][0].updates[0], **untold)),)})
    half_told = flight({"policy": two_ranks(**untold)})
    for one, other in ((alone, flight(SAME)), (flight(SAME), alone), (flight(ALONE), half_told)):
        assert bisect(one, other).found == ()
    assert "dealt to other ranks" in bisect(flight(SAME), half_told).layouts["policy"]
    wrong = two_ranks(**untold, inputs=inputs(response_mask=ColumnTrace(7)))
    for one in (flight(ALONE), alone, flight(SAME), half_told):
        assert first(one, flight({"policy": wrong}))[3:] == ("inputs", "response_mask")


def test_a_tolerance_is_for_what_is_computed() -> None:
    other = flight({"policy": two_ranks(loss=0.5001, outputs={"logprobs": ColumnTrace(5, -2.0001, 2.0001)})})
    assert not bisect(flight(SAME), other, tolerance=1e-3).found
    assert first(flight(SAME), other, tolerance=1e-5)[3] == "outputs"
    wrong = flight({"policy": two_ranks(inputs=inputs(response_mask=ColumnTrace(7)))})
    assert first(flight(SAME), wrong, tolerance=1.0)[3:] == ("inputs", "response_mask")
    near = two_ranks(inputs=inputs(advantages=ColumnTrace(7, 1.0001, 2.0)))
    assert first(flight(SAME), flight({"policy": near}))[3:] == ("inputs", "advantages")
    assert not bisect(flight(SAME), flight({"policy": near}), tolerance=1e-3).found
    assert first(flight(SAME), flight({"policy": near}), tolerance=1e-5)[3:] == ("inputs", "advantages")


def test_numbers_that_are_none_are_equal_to_themselves_alone() -> None:
    nan = {"policy": two_ranks(loss=math.nan)}
    assert not bisect(flight(nan), flight(nan)).found
    assert first(flight(nan), flight(SAME))[3] == "loss"


def test_columns_that_one_run_alone_has() -> None:
    more = flight({"policy": two_ranks(inputs=inputs(margin=ColumnTrace(3, 1.0, 1.0)))})
    assert first(flight(SAME), more)[3:] == ("inputs", "margin")
    assert first(flight(ALONE), more)[3:] == ("inputs", "margin")


def test_steps_that_one_run_alone_has_recorded_are_passed_over() -> None:
    wrong = {"policy": two_ranks(loss=1.0)}
    found = bisect({2: SAME, 4: SAME, 6: SAME}, {2: SAME, 3: wrong, 4: SAME, 6: wrong})
    assert (found.steps, found.equal_until, found.alone) == ((2, 4, 6), 4, (0, 1))
