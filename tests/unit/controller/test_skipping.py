"""Steps that were left out: counted by role, over checkpoints, told, and their batches kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distft.clients.model_group import Update
from distft.controller.failed_steps import FailedSteps
from distft.controller.progress import Progress, Skipped
from distft.controller.rl import taken, train_rl
from distft.workers.verbs import DataVerbs, ModelVerbs
from tests.harness.fake_groups import MEMORY, Said
from tests.unit.controller import test_supervised
from tests.unit.controller.test_rl import session

NAN = "the loss is nan"


def of(folder: Path, ledger: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{ledger}.jsonl").read_text().splitlines()]


def test_a_resumed_count_goes_on() -> None:
    progress = Progress(total_steps=9)
    progress.skipped["policy"] = Skipped(2, 1).also(["", NAN, NAN])
    assert progress.skipped["policy"] == Skipped(4, 1), "one batch"
    assert progress.skipped["policy"].also([NAN, NAN]) == Skipped(6, 2)
    assert progress.skipped["policy"].also([NAN, ""]) == Skipped(5, 0)
    again = Progress(total_steps=9)
    again.restore(json.loads(json.dumps(progress.state())))
    assert again.skipped == {"policy": Skipped(4, 1)}
    old = progress.state()
    del old["skipped"]
    again = Progress(total_steps=9)
    again.restore(old)
    assert again.skipped == {}


def test_policy_and_value_are_each_left_out_on_their_own(tmp_path: Path) -> None:
    said = Said(left_out={"value": [NAN, "", NAN, NAN], "policy": ["", "", NAN, ""]})
    run = session(said, tmp_path, "train.steps=4", "recovery.max_skipped_steps=7", "tracking.samples_every=0")
    run.failed_steps = FailedSteps(tmp_path)
    train_rl(run)
    run.tracker.close()
    assert run.progress.skipped == {"value": Skipped(3, 2), "policy": Skipped(1, 0)}
    told = {
        role: [
            (call.kwargs["max_skipped_steps"], call.kwargs["skipped_in_a_row"])
            for call in said.asked(ModelVerbs.update)
            if call.group.role == role
        ]
        for role in ("value", "policy")
    }
    assert told == {"value": [(7, 0), (7, 1), (7, 0), (7, 1)], "policy": [(7, 0), (7, 0), (7, 0), (7, 1)]}
    lines = of(tmp_path, "metrics")
    assert [line.get("value/skipped_steps") for line in lines] == [1, 1, 2, 3]
    assert [line.get("skipped_steps") for line in lines] == [None, None, 1, 1]
    skipped = [(one["step"], one["role"], one["in_a_row"]) for one in of(tmp_path, "events")
               if one["event"] == "steps_skipped"]  # fmt: skip
    assert skipped == [(1, "value", 1), (3, "value", 1), (3, "policy", 1), (4, "value", 2)]
    kept = [Path(call.args[0]).name for call in said.asked(DataVerbs.keep_step)]
    assert kept == ["step_00000001", "step_00000003", "step_00000004"], "once a step"


def test_of_given_rows_too(tmp_path: Path) -> None:
    said = Said(loss=test_supervised.LN_2, left_out={"policy": ["", NAN, ""]})
    test_supervised.run(said, "dpo-tiny", tmp_path)
    assert [call.kwargs["skipped_in_a_row"] for call in said.asked(ModelVerbs.update)] == [0, 0, 1]
    assert [line.get("skipped_steps") for line in of(tmp_path, "metrics")] == [None, 1, 1]


def test_the_metrics_of_an_update_are_those_of_the_steps_that_were_taken() -> None:
    nan, good = {"loss": float("nan")}, {"loss": 1.0}
    assert taken(Update((nan, good), (NAN, ""), MEMORY, ())) == [good]
    assert taken(Update((nan, nan), (NAN, NAN), MEMORY, ())) == [nan, nan]
