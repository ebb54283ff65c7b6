"""From a cluster file to the words of one sbatch command; nothing of it is ever read by a shell."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.common.errors import UserError
from distft.config.cluster import load_cluster
from distft.launch.slurm.options import Rendered, batch_script, job_name, render, run_dirs, with_options
from tests.unit.launch.slurm.slurm_examples import EVERYTHING, asked, everything

SCRIPT = Path("/opt/distft/train.sbatch")


def rendered(cluster: Any = None, **changed: Any) -> Rendered:
    return render(asked(cluster or everything(), **changed), script=SCRIPT, python="/opt/python")


def of_script(command: tuple[str, ...]) -> list[str]:
    return list(command[command.index(str(SCRIPT)) + 1 :])


def test_every_option_of_a_cluster_file_is_asked_for() -> None:
    command = rendered().command
    for word in (
        "--nodes=3", "--cpus-per-task=64", "--exclusive", "--mem=0", "--gres=gpu:a100:4", "--partition=gpu,gpu-long",
        "--account=proj.42", "--qos=high", "--constraint=a100&(ib|roce)", "--reservation=maint_7", "--time=2-12:30:00",
        "--requeue", "--signal=USR1@120", "--open-mode=append",
    ):  # fmt: skip
        assert word in command[: command.index(str(SCRIPT))], word
    words = of_script(command)
    assert words[:4] == ["--module", "cuda/12.8", "--module", "gcc/13"]
    python = "/opt/env with space/bin/python"
    assert words[4:8] == ["--needs", python, "--python", python]
    assert words[-3:] == ["ppo-tiny", "--cluster", "everything"]


def test_what_is_no_run_is_one_step_in_the_same_environment() -> None:
    program = ("-m", "distft.cli", "eval", "run:runs/a b")
    found = rendered(program=program)
    assert not any(word.startswith("--signal") for word in found.command)
    words = of_script(found.command)
    assert words[-5:] == ["--step", *program]
    srun = [value for option, value in itertools.pairwise(words) if option == "--srun"]
    assert srun[:2] == ["--ntasks=1", "--cpus-per-task=64"]
    assert [value for option, value in itertools.pairwise(words) if option == "--within"] == ["env", "HF_HOME=/data/hf"]
    assert words.index("--within") > words.index("--module"), "what is set by name wins"


def test_the_other_ways_of_asking_for_gpus_and_memory() -> None:
    slurm = {**EVERYTHING["slurm"], "exclusive": False, "gpus_request": "gpus_per_node"}
    command = rendered(everything(slurm=slurm)).command
    assert "--gpus-per-node=a100:4" in command
    assert f"--mem={int(500.5 * 1024)}M" in command
    assert "--exclusive" not in command
    untyped = rendered(everything(slurm={"gpus_typed": False})).command
    assert "--gres=gpu:4" in untyped


def test_a_cluster_without_gpus_asks_for_none() -> None:
    command = rendered(load_cluster("slurm-cpu")).command
    assert not [word for word in command if "gres" in word or "gpu" in word]
    assert "--mem=8192M" in command


def test_values_of_variables_never_travel_by_argv() -> None:
    """By name only: sbatch's command line can be read by everyone on the machine."""
    command = rendered(everything(environment={"SITE": "value-in-the-file", "HF_TOKEN": None})).command
    assert not [word for word in command if "HF_TOKEN" in word or "value-in-the-file" in word]


def test_pyxis_mounts_the_run_the_working_folder_and_the_scratch() -> None:
    container = {"runtime": "pyxis", "image": "nvcr.io#nvidia/pytorch:25.01", "mounts": ["/data:/data:ro"]}
    words = of_script(rendered(everything(virtualenv=None, container=container)).command)
    options = [words[at + 1] for at, word in enumerate(words) if word == "--srun"]
    assert options == [
        "--container-image=nvcr.io#nvidia/pytorch:25.01",
        "--container-mounts=/data:/data:ro,/home/me/runs/ppo-tiny:/home/me/runs/ppo-tiny,/home/me:/home/me,/local:/local",
        "--container-workdir=/home/me",
    ]
    assert words[words.index("--python") + 1] == "python"


def test_apptainer_stands_before_python() -> None:
    container = {"runtime": "apptainer", "image": "/images/my image.sif", "mounts": ["/data:/data"]}
    words = of_script(rendered(everything(virtualenv=None, container=container)).command)
    within = [words[at + 1] for at, word in enumerate(words) if word == "--within"]
    assert within[:5] == ["apptainer", "exec", "--nv", "--pwd", "/home/me"]
    assert within[5:7] == ["--bind", "/data:/data"]
    assert within[-1] == "/images/my image.sif"


@pytest.mark.parametrize("folder", ["/home/a,b", "/home/a:b"])
def test_a_folder_that_cannot_be_mounted_is_refused(folder: str) -> None:
    cluster = everything(virtualenv=None, container={"runtime": "pyxis", "image": "x"})
    with pytest.raises(UserError, match="cannot be mounted"):
        rendered(cluster, folder=Path(folder))


def test_files_are_copied_as_they_are_now(tmp_path: Path) -> None:
    recipe, cluster = tmp_path / "my recipe.yaml", tmp_path / "c.yaml"
    recipe.write_text("format: 1\n")
    cluster.write_text("name: c\n")
    run = tmp_path / "run"
    found = rendered(source=str(recipe), cluster_source=str(cluster), run_dir=str(run))
    words = of_script(found.command)
    assert [source for source, _ in found.copies] == [recipe, cluster]
    assert [words[-3], words[-1]] == [str(target) for _, target in found.copies]
    assert all(target.parent == run / "launch" for _, target in found.copies)
    recipe.write_text("format: 2\n")
    assert rendered(source=str(recipe), run_dir=str(run)).copies[0][1] != found.copies[0][1]


@pytest.mark.parametrize(("name", "safe"), [
    ("ppo-hh_1.5", "ppo-hh_1.5"), ("a\n#SBATCH --uid=0", "a-SBATCH---uid-0"), ("$(reboot)", "reboot"),
    ("%x/../y", "x-..-y"), ("\n", "distft"), ("ä b", "b"),
])  # fmt: skip
def test_job_names_keep_to_an_allow_list(name: str, safe: str) -> None:
    assert job_name(name) == safe


@given(st.text())
def test_no_name_can_be_more_than_a_name(name: str) -> None:
    found = job_name(name)
    assert found
    assert set(found) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")


def test_a_percent_sign_is_no_pattern_and_a_backslash_is_refused() -> None:
    assert "--output=/runs/100%%j/logs/slurm-%j.out" in rendered(run_dir="/runs/100%j").command
    for path in ("/runs/a\\b", "/runs/a\nb"):
        with pytest.raises(UserError, match="Slurm does not take in a path"):
            rendered(run_dir=path)


# ---- arrays and dependencies


def test_tasks_have_run_folders_of_their_own_or_run_one_after_the_other() -> None:
    own = asked(everything(), run_dir="/runs/s-{task}", array="2-3")
    assert run_dirs(own) == ["/runs/s-2", "/runs/s-3"]
    command = render(own, script=SCRIPT, python="p").command
    assert "--output=/runs/s-%a/logs/slurm-%A_%a.out" in command
    assert "--array=2-3" in command
    assert run_dirs(asked(everything(), array="1-9%1")) == ["/home/me/runs/ppo-tiny"]
    with pytest.raises(UserError, match="one run folder at once"):
        run_dirs(asked(everything(), array="1-9"))


def test_jobs_that_must_have_ended_well_before() -> None:
    command = rendered(after=("12", "13_4")).command
    assert "--dependency=afterok:12:13_4" in command
    assert "--kill-on-invalid-dep=yes" in command
    with pytest.raises(UserError, match="no job id"):
        rendered(after=("12 --uid=0",))


def test_a_job_has_its_nodes_in_reserve_and_outlives_those_it_loses() -> None:
    spare = with_options(everything(), ["spare_nodes=2"])
    with pytest.raises(UserError, match="'-1' is not allowed here"):
        with_options(everything(), ["spare_nodes=-1"])
    command = rendered(spare).command
    assert "--nodes=5" in command
    assert not {"--no-kill", "--outlive-nodes"} & set(command)
    command = rendered(spare, outlives_nodes=True).command
    assert command.index("--no-kill") < command.index(str(SCRIPT)) < command.index("--outlive-nodes")


def test_the_script_is_there_and_can_be_run() -> None:
    assert os.access(batch_script(), os.X_OK)


# ---- options of a submission


def test_options_of_a_submission_stand_in_place_of_the_cluster_files() -> None:
    options = ["exclude=n[3-4],n7", "mail-user=me@example.org", "mail_type=END,FAIL", "comment=for the paper's table 2",
               "time=2:00:00", "nodelist=n1", "exclusive=false"]  # fmt: skip
    command = rendered(with_options(everything(), options)).command
    for word in ("--exclude=n[3-4],n7", "--mail-user=me@example.org", "--mail-type=END,FAIL", "--time=2:00:00",
                 "--comment=for the paper's table 2", "--nodelist=n1", "--partition=gpu,gpu-long"):  # fmt: skip
        assert word in command, word
    assert "--exclusive" not in command
    cpu = with_options(load_cluster("local").model_copy(update={"kind": "slurm", "slurm": None}), ["partition=main"])
    assert cpu.slurm is not None
    assert cpu.slurm.partition == "main"


@pytest.mark.parametrize(("option", "said"), [
    ("exlude=n1", "there is no option exlude\n  did you mean exclude?"), ("exclude", "has no value"),
    ("exclude=n1 --uid=0", "is not allowed here\n  exclude: --exclude: nodes that must not"),
    ("comment=a\nb", "is not allowed here"), ("uid=0", "there is no option uid"), ("time=soon", "not allowed here"),
])  # fmt: skip
def test_only_known_options_with_right_values(option: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        with_options(everything(), [option])
    assert said in str(refused.value)


def test_the_job_is_given_variables_by_name_only() -> None:
    assert "--export=HF_TOKEN,HOME,PATH" in rendered(exported=("HF_TOKEN", "HOME", "PATH")).command
    assert "--export=NONE" in rendered().command


def test_one_that_waits_for_the_end_of_others() -> None:
    assert "--dependency=afterany:7:8" in rendered(once_ended=("7", "8")).command
    assert "--dependency=afterok:5,afterany:7" in rendered(after=("5",), once_ended=("7",)).command


def test_what_every_node_must_have_is_looked_for_there() -> None:
    words = of_script(rendered().command)
    assert words[words.index("--needs") + 1] == "/opt/env with space/bin/python"
    image = {"runtime": "apptainer", "image": "/images/my image.sif"}
    words = of_script(rendered(everything(virtualenv=None, container=image)).command)
    assert words[words.index("--needs") + 1] == "/images/my image.sif"
    registry = {"runtime": "pyxis", "image": "nvcr.io#nvidia/pytorch:25.01"}
    assert "--needs" not in of_script(rendered(everything(virtualenv=None, container=registry)).command)
