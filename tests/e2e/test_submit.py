"""``distft submit`` as far as it goes without a cluster: what would be submitted, and what is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from distft.cli import main
from distft.tracking.exit import Ending, write_exit

ADDRESS = "http://head.example:8265"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", ADDRESS)
    return tmp_path


def test_the_launcher_says_what_the_verb_says(
    here: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dpo-tiny", "output_dir=my run", "--dry-run", "--json"]
    assert main(["submit", "ray", *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["address"] == ADDRESS
    assert told["run_dir"] == str(here / "my run")
    assert told["entrypoint"].endswith("""--cluster "$package/cluster.yaml" 'output_dir=my run'""")
    launched = subprocess.run([root / "launchers" / "ray", *words], capture_output=True, check=True, timeout=60)
    assert json.loads(launched.stdout) == told
    assert list(here.iterdir()) == [], "nothing is written"


def test_a_dry_run_for_ray_need_not_know_where_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the README has it, on a machine where nothing is set."""
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    assert main(["submit", "ray", "sft-tiny", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["address"] == "(RAY_API_SERVER_ADDRESS is not set)"
    assert main(["submit", "ray", "sft-tiny"]) == 3
    assert "where its job server listens is not said" in capsys.readouterr().err


def test_a_pipeline_is_one_ray_job(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "ray", "quickstart", "output_dir=q", "common.seed=2", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["run_dir"] == str(here / "q")
    assert told["submission_id"].startswith("distft-quickstart-")
    assert told["entrypoint"].endswith('"$package/cluster.yaml" output_dir=q common.seed=2')
    assert told["runtime_env"]["working_dir"] == ["cluster.yaml", "recipe.yaml"]
    assert list(here.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["ray", "nope"], 2, "no shipped recipe has this name"),
        (["ray", "sft-tiny", "--cluster", "slurm-cpu"], 2, "is of kind slurm, not ray"),
        (["ray", "quickstart", "--stage-cluster", "ppo=x"], 2, "leave it out: --cluster C is of all stages"),
        (["ray", "quickstart", "--after", "17"], 2, "--after: is an option of Slurm jobs"),
        (["ray", "sft-tiny", "--after", "17"], 2, "--after: is an option of Slurm jobs"),
        (["ray", "sft-tiny", "--sweep", "seed=1,2"], 2, "--sweep: is an option of Slurm jobs"),
        (["ray", "sft-tiny", "--slurm", "time=1"], 2, "--slurm: is an option of Slurm jobs"),
        (["slurm", "sft-tiny", "--cluster", "slurm-cpu", "seed={task}"], 2, "only a job of an array has a {task}"),
        (["slurm", "sft-tiny", "--cluster", "slurm-cpu", "--slurm", "exlude=n1"], 2, "did you mean exclude?"),
        (["ray", "sft-tiny", "train.stepz=1"], 2, "train.stepz"),
        (["slurm", "sft-tiny"], 2, "needs a cluster file"),
        (["moon", "sft-tiny"], 2, "submit: argument target: invalid choice"),
        (["ray", "sft-tiny"], 3, "there is no token for the Ray cluster"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_message(
    here: Path, words: list[str], status: int, said: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HOME", str(here))
    assert main(["submit", *words]) == status
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert "Traceback" not in told.err
    assert list(here.iterdir()) == []


def test_a_finished_run_is_not_submitted_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = here / "run"
    (run / "final").mkdir(parents=True)
    (run / "final" / "config.json").write_text("{}")
    write_exit(run, Ending("done", 0), 1)
    from distft.config.load import load_recipe
    from distft.launch.run_folder import write_recipe

    words = ["output_dir=run", "train.steps=30"]
    write_recipe(load_recipe("sft-tiny", words), run)
    assert main(["submit", "ray", "sft-tiny", *words]) == 0
    assert "already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["status", "nothing"], "there is no such folder"),
        (["logs", "."], "no run lies in this folder"),
        (["logs", ".", "--rank", "x"], "must be a number or `all`"),
        (["logs", ".", "-n", "-1"], "must be at least 0"),
        (["cancel", "."], "no run lies in this folder"),
        (["doctor", "--cluster", "locl"], "did you mean local?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_watching_what_is_not_there(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
