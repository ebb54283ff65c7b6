"""Bad input found before anything is started, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.layout import step_name
from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.config.recipe import Recipe
from distft.launch.preflight import checks as checks
from distft.launch.preflight.checks import (
    check_choice,
    check_copies,
    check_disk,
    check_machine,
    check_memory,
    check_output_dir,
    check_waiting,
    checkpoint_bytes,
    preflight,
)
from distft.launch.slurm.options import with_options
from distft.planning.machine import Machine
from distft.planning.plan import Plan, make_plan
from tests.unit.launch.examples import LAPTOP, LLAMA_8B, config_folder, from_folder, gpu_cluster, model_folder, recipe


def on_laptop(wanted: Recipe) -> Plan:
    return make_plan(wanted, load_cluster("local"), machine=LAPTOP)


def ready(tmp_path: Path, kind: str = "sft", **changes: Any) -> Recipe:
    return recipe(kind, {"output_dir": str(tmp_path / "a" / "b" / "run"), **changes})


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "ppo"])
def test_a_right_recipe_passes_and_leaves_nothing_behind(kind: str, tmp_path: Path) -> None:
    wanted = ready(tmp_path, kind)
    said = preflight(wanted, on_laptop(wanted), machine=LAPTOP)
    assert all("random weights (init)" in warning for warning in said)
    assert len(said) == {"dpo": 1, "ppo": 2}.get(kind, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("best", "told"), [
    ("objective/kl", "objective/score"),
    ("rewards/acuracies", "did you mean rewards/accuracies?"),
    ("rewards/brief", "for example evaluation.best: objective/score"),  # counts against the answers
    ("what", "for example evaluation.best: objective/score"),
])  # fmt: skip
def test_a_run_is_chosen_by_what_is_better_in_one_direction(best: str, told: str) -> None:
    looks_on = {"name": "rated", "url": "http://host/v1", "model": "big", "weight": 0}
    rewards = {"functions": ["my:right", "my:brief"], "weights": [1.0, -0.5], "judges": [looks_on]}
    keys = {"models.reward": rewards, "data.holdout": 0.1}
    for right in ("objective/score", "rewards/right", "rewards/rated"):
        check_choice(recipe("ppo", keys | {"evaluation": {"every": 5, "best": right}}))
    with pytest.raises(UserError) as caught:
        check_choice(recipe("ppo", keys | {"evaluation": {"every": 5, "best": best}}))
    assert caught.value.where == "evaluation.best"
    assert told in caught.value.hint


@pytest.mark.parametrize(("key", "value"), [("recovery.wait_for_nodes", 60), ("recovery.elastic", True)])
def test_nobody_waits_for_a_node_on_one_machine(tmp_path: Path, key: str, value: object) -> None:
    wanted = ready(tmp_path, **{key: value})
    check_waiting(wanted, on_laptop(wanted))
    (said,) = preflight(wanted, on_laptop(wanted), machine=LAPTOP)
    assert said == f"{key}: has no effect on local, which is this machine alone"


def test_a_slurm_job_waits_for_a_node_where_it_has_one_in_reserve(tmp_path: Path) -> None:
    waiting, alone = ready(tmp_path, **{"recovery.wait_for_nodes": 60}), gpu_cluster()
    with pytest.raises(UserError, match="gets no other node for one that it loses") as caught:
        preflight(waiting, make_plan(waiting, alone))
    assert caught.value.where == "recovery.wait_for_nodes"
    check_waiting(waiting, make_plan(waiting, with_options(alone, ["spare_nodes=1"])))
    fewer = ready(tmp_path, **{"recovery.elastic": True})
    check_waiting(fewer, make_plan(fewer, alone))


def test_an_existing_run_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    check_output_dir(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("path", ["file", "file/run", "file/deeper/run"])
def test_run_folder_in_the_way_of_a_file(path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is a file, not a folder") as caught:
        check_output_dir(tmp_path / path)
    assert caught.value.where == "output_dir"


def test_unwritable_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match="cannot be written"):
        check_output_dir(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_where_no_folder_can_be_made() -> None:
    with pytest.raises(UserError, match="cannot be (made|written)"):
        check_output_dir(Path("/proc/no/run"))


def test_a_store_that_cannot_be_made_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    asked = recipe("sft", {"output_dir": str(tmp_path / "run"), "data.cache_dir": str(tmp_path / "file" / "rows")})
    with pytest.raises(UserError, match=r"data.cache_dir: the folder of tokenised rows .*file is a file, not a folder"):
        preflight(asked, on_laptop(asked), machine=LAPTOP)


def test_a_run_that_starts_at_the_same_time_is_not_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes the same folder between our look and our try, and writes into another before we take ours away."""
    real = Path.mkdir

    def as_the_other_does(folder: Path) -> None:
        real(folder)
        (folder / "theirs").write_text("")
        if folder.name == "runs":
            real(folder)

    monkeypatch.setattr(Path, "mkdir", as_the_other_does)
    check_output_dir(tmp_path / "runs" / "mine")
    assert (tmp_path / "runs" / "mine" / "theirs").exists()


@pytest.mark.parametrize("path", ["link", "link/run"])
def test_a_link_to_nowhere(path: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/no/where")
    with pytest.raises(UserError, match="link is a link to /no/where, which is not there"):
        check_output_dir(tmp_path / path)


@pytest.mark.parametrize("path", ["a" * 300, f"run/{'a' * 300}/deeper"])
def test_a_name_that_no_file_can_have(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the name aaa.* \(300 characters\) is too long for a file") as caught:
        check_output_dir(tmp_path / path)
    assert len(caught.value.what) < 300
    assert list(tmp_path.iterdir()) == []


def test_fewer_cpus_than_planned(tmp_path: Path) -> None:
    plan = on_laptop(ready(tmp_path))
    with pytest.raises(EnvironmentFallsShort, match="counts on 2 CPUs, this machine has 1"):
        check_machine(plan, Machine(cpus=1, memory_gib=16.0))


def test_a_plan_that_does_not_fit_says_what_would(tmp_path: Path) -> None:
    changes = {"train.max_tokens_per_rank": 16384, "train.global_batch_size": 4096}
    plan = make_plan(from_folder("sft", config_folder(tmp_path, LLAMA_8B), changes), gpu_cluster())
    with pytest.raises(UserError, match="GPUs of policy would need .* GiB of 79.1") as caught:
        check_memory(plan)
    assert "models.policy.gradient_checkpointing=true" in caught.value.hint
    assert caught.value.exit_status == 2


def test_whether_it_fits_may_have_to_be_known(tmp_path: Path) -> None:
    plan = make_plan(recipe("sft", {"models": {"policy": {"path": "someone/some-model"}}}), gpu_cluster())
    check_memory(plan)
    with pytest.raises(EnvironmentFallsShort, match="whether it fits is not known") as caught:
        check_memory(plan, must_know=True)
    assert "someone/some-model" in caught.value.hint


def disk_of(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2 * free, 0, free))


def test_disk_for_the_checkpoints_and_the_final_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained role's checkpoint: 12 bytes a parameter, weights and Adam's two states; PPO saves policy and value."""
    wanted = ready(tmp_path, "ppo", **{"train.steps": 100, "checkpoint": {"every": 10, "keep": 3}})
    plan = on_laptop(wanted)
    one, final = checkpoint_bytes(wanted, plan), 4 * plan.memory["policy"].parameters
    assert one == 12 * (plan.memory["policy"].parameters + plan.memory["value"].parameters)
    disk_of(monkeypatch, 4 * one + final)
    check_disk(wanted, plan)
    disk_of(monkeypatch, 4 * one + final - 1)
    with pytest.raises(EnvironmentFallsShort, match="4 checkpoints") as caught:
        check_disk(wanted, plan)
    assert "checkpoint.keep=2 would fit" in caught.value.hint


@pytest.mark.parametrize(
    ("there", "steps", "number"),
    [((), 2, 1), ((), 40, 4), ((), 30, 3), ((10,), 100, 3), ((10, 20, 30), 100, 1), ((90,), 95, 1), ((95,), 95, 0)],
)
def test_disk_for_as_many_checkpoints_as_are_still_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: tuple[int, ...], steps: int, number: int
) -> None:
    wanted = ready(tmp_path, **{"train.steps": steps, "checkpoint": {"every": 10, "keep": 3}})
    for step in there:
        (Path(wanted.output_dir) / "checkpoints" / step_name(step)).mkdir(parents=True)
    plan = on_laptop(wanted)
    one, final = checkpoint_bytes(wanted, plan), 4 * plan.memory["policy"].parameters
    disk_of(monkeypatch, number * one + final)
    check_disk(wanted, plan)
    disk_of(monkeypatch, number * one + final - 1)
    with pytest.raises(EnvironmentFallsShort, match=f"{number} checkpoint"):
        check_disk(wanted, plan)


def test_room_in_memory_for_two_copies_of_all_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ready(tmp_path, kind="ppo", **{"checkpoint.memory_every": 5})
    plan = on_laptop(wanted)
    needed = 2 * checkpoint_bytes(wanted, plan)
    disk_of(monkeypatch, needed)
    check_copies(wanted, plan)
    disk_of(monkeypatch, needed - 1)
    with pytest.raises(EnvironmentFallsShort, match="two copies of all states need") as caught:
        preflight(wanted, plan, machine=LAPTOP)
    assert (caught.value.where, caught.value.exit_status) == ("checkpoint.memory_every", 3)
    assert "--shm-size), or checkpoint.memory_every=0" in caught.value.hint
    check_copies(ready(tmp_path, kind="ppo"), plan)


def rows(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


GOOD = json.dumps({"prompt": "Q", "completion": "A"})


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([GOOD, '{"prompt": '], r"rows\.jsonl:2"),
        ([], "rows.jsonl"),
        ([json.dumps({"nothing": "useful"})], "nothing"),
    ],
)
def test_first_rows_are_read(lines: list[str], said: str, tmp_path: Path) -> None:
    source = {"path": str(rows(tmp_path / "rows.jsonl", *lines) if lines else _empty(tmp_path))}
    wanted = ready(tmp_path, **{"data.train": [source]})
    with pytest.raises(UserError, match=said):
        preflight(wanted, on_laptop(wanted), machine=LAPTOP)


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("")
    return tmp_path / "rows.jsonl"


def test_missing_data_names_the_nearest(tmp_path: Path) -> None:
    rows(tmp_path / "train.jsonl", GOOD)
    wanted = ready(tmp_path, **{"data.train": [{"path": str(tmp_path / "trian.jsonl")}]})
    with pytest.raises(UserError, match="trian") as caught:
        preflight(wanted, on_laptop(wanted), machine=LAPTOP)
    assert "train.jsonl" in str(caught.value)


def test_evaluation_sources_are_checked_too(tmp_path: Path) -> None:
    wanted = ready(tmp_path, **{"data.eval": [{"path": str(tmp_path / "missing.jsonl")}]})
    with pytest.raises(UserError, match="missing"):
        preflight(wanted, on_laptop(wanted), machine=LAPTOP)


def test_hub_data_is_asked_for_and_read_by_the_data_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_rows", lambda *_: pytest.fail("rows were read"))
    monkeypatch.setattr(checks, "check_on_hub", lambda kind, name, **_: f"asked for the {kind} {name}")
    wanted = ready(tmp_path, **{"data.train": [{"path": "someone/some-data"}]})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert preflight(wanted, on_laptop(wanted), machine=LAPTOP) == ()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    assert preflight(wanted, on_laptop(wanted), machine=LAPTOP) == (
        "data.train.0: asked for the dataset someone/some-data",
    )
    (tmp_path / "someone___some-data").mkdir()
    assert preflight(wanted, on_laptop(wanted), machine=LAPTOP) == ()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"name": "nowhere:Found"}, "rollout.environment.name: there is no module nowhere"),
        ({"name": "/no/folder/mine.py:Mine"}, "rollout.environment.name: there is no file /no/folder/mine.py"),
        ({"name": "distft.rollout.calculator:Calculater"}, "rollout.environment.name: .* defines no Calculater"),
        (
            {"name": None, "http": {"url": "http://tools/", "token_env": "TOOLS_WORD"}},
            "rollout.environment.http.token_env: the environment variable TOOLS_WORD is not set",
        ),
    ],
)
def test_environments_are_checked(environment: dict[str, Any], message: str) -> None:
    said = [f"rollout.environment.{key}={json.dumps(value)}" for key, value in environment.items()]
    wanted = load_recipe("tools-tiny", said)
    with pytest.raises(UserError, match=message):
        preflight(wanted, on_laptop(wanted), machine=LAPTOP)


def test_reward_functions_and_models_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    models = {
        "policy": recipe("sft").models.model_dump(exclude_none=True)["policy"],
        "reward": {"functions": ["no:where"]},
    }
    wanted = ready(tmp_path, "ppo", models=models)
    with pytest.raises(UserError, match="there is no module no"):
        preflight(wanted, on_laptop(wanted), machine=LAPTOP)
    models["reward"] = {"http": ({"name": "judge", "url": "http://judge/", "token_env": "JUDGES_WORD"},)}
    wanted = ready(tmp_path, "ppo", models=models)
    monkeypatch.delenv("JUDGES_WORD", raising=False)
    with pytest.raises(UserError, match="models.reward.http.0.token_env.*JUDGES_WORD is not set"):
        preflight(wanted, on_laptop(wanted), machine=LAPTOP)
    folder = model_folder(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    wanted = ready(tmp_path, models={"policy": {"path": str(folder)}})
    with pytest.raises(UserError, match="has no tokenizer"):
        preflight(wanted, on_laptop(wanted), machine=LAPTOP)


def test_little_free_memory_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "free_memory", lambda: 2**20)
    wanted = ready(tmp_path)
    (warning,) = preflight(wanted, on_laptop(wanted), machine=LAPTOP)
    assert "GiB will be needed" in warning
