from __future__ import annotations

import pytest

from distft.common.errors import RunFailed
from distft.launch.restarts import Restarts


def failed(kind: str = "death", *, rank: int = 1, stage: str = "update", cause: str = "killed") -> RunFailed:
    return RunFailed(cause, role="policy", rank=rank, node="n1", stage=stage, log="policy-1.log", kind=kind)


def refused(
    restarts: Restarts,
    failure: RunFailed,
    step: int,
    *,
    stepped: bool = True,
    saved: bool = False,
    node_lost: bool = False,
) -> str | None:
    return restarts.refused(failure, at=f"step {step}", stepped=stepped, saved=saved, node_lost=node_lost)


@pytest.mark.parametrize("kind", ["death", "deadline", "node", "out_of_memory", "exception"])
def test_what_may_pass_is_tried_again(kind: str) -> None:
    assert refused(Restarts(1), failed(kind), 3) is None


@pytest.mark.parametrize("kind", ["checkpoint", "export", "invariant", "failure", "interrupted"])
def test_what_stays_as_it_is_ends_the_run(kind: str) -> None:
    assert refused(Restarts(3), failed(kind), 3) == ""


def test_none_where_none_is_wanted() -> None:
    assert refused(Restarts(0), failed(), 3) == ""


def test_an_exception_of_the_first_step_comes_again() -> None:
    assert refused(Restarts(3), failed("exception"), 1, stepped=False) == ""
    assert refused(Restarts(3), failed(), 1, stepped=False) is None, "a death may be anybody's deed"


def test_a_step_that_comes_out_as_no_number_comes_again() -> None:
    diverged = RunFailed("not finite", role="policy", rank=0, kind="exception", would_repeat=True)
    assert refused(Restarts(3), diverged, 5) == ""


def test_the_same_step_failing_twice_alike_ends_the_run() -> None:
    restarts = Restarts(5)
    assert refused(restarts, failed(), 3) is None
    assert refused(restarts, failed(), 4) is None, "another step"
    assert refused(restarts, failed(rank=0), 3) is None, "another rank"
    assert refused(restarts, failed(stage="generate"), 3) is None, "elsewhere in the step"
    assert "step 3 has failed twice in the same way" in str(refused(restarts, failed(), 3))


def test_a_step_at_which_nodes_are_lost_has_not_failed_in_the_same_way() -> None:
    restarts = Restarts(4)
    assert refused(restarts, failed(), 5, node_lost=True) is None
    assert refused(restarts, failed(), 5, node_lost=True) is None, "another node, or the same that was back"
    assert refused(restarts, failed(), 5) is None, "the first of the step itself"
    assert refused(restarts, failed(), 5, node_lost=True) is None
    assert refused(restarts, failed(), 5, node_lost=True) == (
        "4 restarts brought no new checkpoint (recovery.max_restarts)"
    )
    assert "twice" in str(refused(restarts, failed(), 5))


def test_what_cannot_follow_is_known_before_anybody_is_asked() -> None:
    assert Restarts(1).may_follow(failed(), stepped=False)
    assert not Restarts(0).may_follow(failed(), stepped=True)
    assert not Restarts(1).may_follow(failed("disk"), stepped=True)
    assert not Restarts(1).may_follow(failed("exception"), stepped=False)


def test_one_exception_is_the_same_whichever_rank_is_heard_first() -> None:
    restarts = Restarts(5)
    assert refused(restarts, failed("exception", rank=0, cause="ValueError: x"), 3) is None
    assert refused(restarts, failed("exception", rank=1, cause="KeyError: y"), 3) is None
    assert "twice" in str(refused(restarts, failed("exception", rank=1, cause="ValueError: x"), 3))


def test_two_parts_of_ray_that_end_in_one_step_are_two_causes() -> None:
    restarts = Restarts(5)
    assert refused(restarts, RunFailed("Ray has ended: its raylet died", kind="node"), 3) is None
    assert refused(restarts, RunFailed("Ray has ended: its gcs_server died", kind="node"), 3) is None
    assert "twice" in str(refused(restarts, RunFailed("Ray has ended: its raylet died", kind="node"), 3))


def test_the_count_begins_again_with_a_checkpoint() -> None:
    restarts = Restarts(2)
    assert [refused(restarts, failed(), step) for step in (3, 4)] == [None, None]
    assert restarts.used == 2
    assert refused(restarts, failed(), 7, saved=True) is None
    assert restarts.used == 1
    assert refused(restarts, failed(), 8) is None
    assert refused(restarts, failed(), 9) == "2 restarts brought no new checkpoint (recovery.max_restarts)"


def test_memory_that_runs_out_is_tried_once_more() -> None:
    restarts = Restarts(5)
    assert refused(restarts, failed("out_of_memory", rank=0), 3) is None
    assert "memory ran out again" in str(refused(restarts, failed("out_of_memory", rank=1), 4))
    assert refused(restarts, failed("out_of_memory", rank=1), 9, saved=True) is None


def test_as_many_workers_are_followed_in_place_until_a_further_step_is_finished() -> None:
    restarts = Restarts(2)
    assert restarts.may_take_its_place(failed(), at="step 1", finished=0)
    assert restarts.may_take_its_place(failed(rank=0), at="step 1", finished=0)
    assert not restarts.may_take_its_place(failed(rank=2), at="step 1", finished=0)
    assert restarts.may_take_its_place(failed(), at="step 3", finished=2)
    assert restarts.may_take_its_place(failed("deadline"), at="step 2", finished=1), "gone back, but not too often"
    assert not restarts.may_take_its_place(failed(rank=2), at="step 3", finished=2), "gone as far as before"
    assert not Restarts(0).may_take_its_place(failed(), at="step 1", finished=0)


def test_none_is_followed_in_place_twice_alike() -> None:
    restarts = Restarts(5)
    assert restarts.may_take_its_place(failed(), at="step 3", finished=2)
    assert not restarts.may_take_its_place(failed(), at="step 3", finished=2)
    assert refused(restarts, failed(), 3) is None, "then it is the attempt that is followed, once"
    assert not restarts.may_take_its_place(failed(), at="step 3", finished=2)
    assert "step 3 has failed twice in the same way" in str(refused(restarts, failed(), 3))


@pytest.mark.parametrize("kind", ["exception", "out_of_memory", "node", "invariant"])
def test_what_is_not_one_workers_own_is_the_attempts_failure(kind: str) -> None:
    assert not Restarts(3).may_take_its_place(failed(kind), at="step 3", finished=2)
