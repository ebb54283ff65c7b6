"""The controller's state."""

from __future__ import annotations

import json

from distft.controller.progress import Best, Progress
from distft.controller.rollback import Rollback


def test_a_restored_progress_goes_on_where_it_was() -> None:
    progress = Progress(total_steps=5)
    seen = []
    for step in progress.steps():
        seen.append(step)
        progress.finish(position=8 * step, num_tokens=100, optimizer_steps=4)
        if step == 2:
            break
    progress.method_state, progress.before = {"scores": {"count": 2.0}}, {"loss": 1.0}
    again = Progress(total_steps=5)
    again.restore(json.loads(json.dumps(progress.state())))
    assert again == progress
    for step in again.steps():
        seen.append(step)
        again.finish(position=8 * step, num_tokens=100, optimizer_steps=4)
    assert seen == [1, 2, 3, 4, 5]
    assert (again.position, again.num_tokens, again.optimizer_steps) == (40, 500, 20)


def test_positions_behind_the_last_steps_are_known() -> None:
    progress = Progress(total_steps=99)
    for step in range(1, 41):
        progress.finish(position=8 * step, num_tokens=1, optimizer_steps=1)
    assert [progress.position_behind(step) for step in (40, 39, 8)] == [(40, 320), (39, 312), (8, 64)]
    assert progress.position_behind(3) == (8, 64), "32 steps back at most"
    assert Progress(total_steps=9).position_behind(0) == (0, 0)
    progress.rollbacks = (Rollback(3, 5, 16, 40, "policy", "the loss jumped"),)
    again = Progress(total_steps=99)
    again.restore(json.loads(json.dumps(progress.state())))
    assert again == progress
    old = progress.state()
    del old["rollbacks"], old["behind"]
    again = Progress(total_steps=99)
    again.restore(old)
    assert (again.rollbacks, again.position_behind(12)) == ((), (40, 320))


def test_the_number_of_steps_is_the_recipes() -> None:
    progress = Progress(total_steps=3, step=3)
    longer = Progress(total_steps=6)
    longer.restore(progress.state())
    assert list(zip(longer.steps(), range(1), strict=False)) == [(4, 0)]
    assert list(progress.steps()) == []


def test_a_run_that_ended_early_stays_at_its_end_until_it_is_asked_for_more() -> None:
    progress = Progress(total_steps=9)
    for step in progress.steps():
        progress.finish(position=step, num_tokens=1, optimizer_steps=1)
        if step == 4:
            progress.best = Best(2, 0.5, 4, 2)
            progress.end_early()
    again = Progress(total_steps=0)
    again.restore(json.loads(json.dumps(progress.state())))
    again.ask_for(9)
    assert (again, list(again.steps())) == (progress, [])
    again.ask_for(12)
    assert next(again.steps()) == 5
    assert again.total_steps == 12


def test_a_checkpoint_of_before_keeps_what_ppo_had_learned_of_its_kl_and_scores() -> None:
    progress = Progress(total_steps=9)
    progress.restore({"step": 4, "position": 32, "kl_coef": 0.07, "score_state": {"count": 8.0}})
    assert progress.method_state == {"iterations": 4, "kl_coef": 0.07, "scores": {"count": 8.0}}
    supervised = Progress(total_steps=9)
    supervised.restore({"step": 4, "position": 32, "kl_coef": 0.0, "score_state": {}})
    assert supervised == Progress(total_steps=9, step=4, position=32)
