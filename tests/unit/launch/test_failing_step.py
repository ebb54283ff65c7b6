"""What is said of a step that ends a run by what it was given: where its batch is, and how to run it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.clients.samples import Samples
from distft.common.errors import DistftError, RunFailed, StoppedOnRequest, UserError
from distft.controller.evaluating import evaluate_if_due
from distft.controller.failed_steps import FailedSteps
from distft.controller.invariants import InvariantViolated
from distft.data.bad_rows import BadRow
from distft.groups.handles import DataRef, Part
from distft.launch.failing_step import again, kept_where_it_fails
from distft.workers.verbs import DataVerbs
from tests.harness.fake_groups import Said
from tests.unit.controller.test_rl import session

RUN = Path("/runs/my run")
AGAIN = "distft replay '/runs/my run' 1 runs it again"


def ended(folder: Path, error: DistftError) -> int:
    """So many batches are kept of a run that this ends in its first step."""
    said = Said()
    run = session(said, folder)
    run.failed_steps = FailedSteps(RUN)
    run.saw(1, Samples((DataRef((Part("rows", (0, 1)),)),), (5, 5), (0, 1)), 0, 2)
    with pytest.raises(type(error)) as caught, kept_where_it_fails(run, RUN):
        raise error
    assert caught.value is error
    return len(said.asked(DataVerbs.keep_step))


@pytest.mark.parametrize(("error", "told"), [
    (UserError("no such sum", where="reward"), f"reward: no such sum\n  {AGAIN}"),
    (UserError("no such sum", hint="mend it"), f"no such sum\n  mend it\n  {AGAIN}"),
    (BadRow("is cut", where="a:3", hint="mend it", reason="json"), f"a:3: is cut\n  mend it\n  {AGAIN}"),
    (RunFailed("inf", role="policy", rank=0, would_repeat=True), f"policy rank 0: inf\n  {AGAIN}"),
    (InvariantViolated("KL is 3", kind="invariant"), f"KL is 3\n  {AGAIN}"),
])  # fmt: skip
def test_what_would_come_again_is_kept_and_said(tmp_path: Path, error: DistftError, told: str) -> None:
    assert ended(tmp_path, error) == 1
    assert str(error) == told


@pytest.mark.parametrize("error", [RunFailed("died", kind="death"), StoppedOnRequest("stopped")])
def test_what_may_pass_is_left_as_it_is(tmp_path: Path, error: DistftError) -> None:
    before = str(error)
    assert ended(tmp_path, error) == 0
    assert str(error) == before


def test_what_fails_behind_the_last_step_is_none_of_them(tmp_path: Path) -> None:
    run = session(Said(), tmp_path, "train.steps=1")
    run.failed_steps = FailedSteps(RUN)
    run.progress.finish(position=2, num_tokens=1, optimizer_steps=1)
    assert (run.step_under_way, run.doing) == (None, "the export")
    with pytest.raises(UserError, match="^no such sum$"), kept_where_it_fails(run, RUN):
        raise UserError("no such sum")


def test_what_fails_in_an_evaluation_between_two_steps_is_none_of_them(tmp_path: Path) -> None:
    """A replay evaluates nothing: it would not fail."""

    class Refusing(Said):
        def _report(self, call, samples):  # type: ignore[no-untyped-def]
            raise UserError("no such sum", where="reward")

    run = session(Refusing(), tmp_path, "train.steps=4", "evaluation.every=1")
    run.num_units = {"train": 100, "eval": 9}
    run.failed_steps = FailedSteps(RUN)
    run.progress.finish(position=2, num_tokens=1, optimizer_steps=1)
    assert (run.step_under_way, run.doing) == (2, "step 2")
    with pytest.raises(UserError, match="^reward: no such sum$"), kept_where_it_fails(run, RUN):
        evaluate_if_due(run)
    assert (run.step_under_way, run.doing) == (None, "the evaluation after step 1")


def test_a_batch_that_is_there_is_named(tmp_path: Path) -> None:
    kept = tmp_path / "failed_steps" / "step_00000007"
    kept.mkdir(parents=True)
    assert again(tmp_path, 7) == f"its batch is kept in {kept}; distft replay {tmp_path} 7 runs it again"
    assert again(tmp_path, 8) == f"distft replay {tmp_path} 8 runs it again"
