"""The command line as people and scripts meet it."""

from __future__ import annotations

import errno
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distft import __version__
from distft.arguments import MEANT, parsers
from distft.cli import CLOSED_PIPE, INTERRUPTED, main
from distft.common.errors import RunFailed, StoppedOnRequest
from distft.config.load import load_recipe
from distft.launch.run_folder import write_recipe
from distft.planning.plan import Plan

VERBS = (
    "quickstart",
    "train",
    "plan",
    "export",
    "recipes",
    "submit",
    "status",
    "logs",
    "cancel",
    "doctor",
    "report",
    "compare",
    "bisect",
    "checkpoints",
    "schema",
    "data",
    "fetch",
    "sync",
    "completion",
)
DISTFT = [sys.executable, "-m", "distft.cli"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RAY_ADDRESS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_help_names_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert told.err == ""
    for verb in VERBS:
        assert f"\n  {verb} " in told.out
    assert "distft quickstart " in told.out
    assert max(map(len, told.out.splitlines())) <= 110


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: distft {verb} ")
    assert len(told.splitlines()) > 4


def test_help_may_be_asked_for_as_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "plan"]) == 0
    assert capsys.readouterr().out.startswith("usage: distft plan ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"distft {__version__}\n"


def test_help_answers_at_once(here: Path) -> None:
    """Under half a second of this machine's time; how long it waited for its turn does not count."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*DISTFT, "--help"], check=True, capture_output=True, cwd=here)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(f"distft --help: {min(seconds):.2f} s")
    assert min(seconds) < 0.5


# ---- for scripts


def test_recipes_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"sft-tiny", "reward-tiny", "ppo-tiny", "dpo-tiny"} <= {recipe["name"] for recipe in found}
    assert all(recipe["description"] for recipe in found)


def test_recipes_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    told = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in told]
    pipelines = ["detox-tiny", "quickstart"]
    assert names == [*sorted(set(names) - set(pipelines)), *pipelines], "recipes, then pipelines"
    assert any(line.startswith("ppo-tiny ") and "PPO" in line for line in told)


@pytest.mark.parametrize("name", ["sft-tiny", "quickstart", "slurm-h100"])
def test_what_is_shipped_is_shown_and_copied(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "mine.yaml"
    assert main(["recipes", "show", name]) == 0
    shown = capsys.readouterr().out
    assert f"name: {name}\n" in shown
    assert main(["recipes", "copy", name, str(copy)]) == 0
    assert copy.read_text() == shown
    used = f"--cluster {copy}" if name == "slurm-h100" else "distft plan, distft train"
    assert capsys.readouterr().out == f"{copy} is yours: change it, then {used}\n"
    assert main(["recipes", "copy", name, str(copy)]) == 2, "no file is overwritten"
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    ("show stf-tiny", "did you mean sft-tiny?"),
    ("shwo sft-tiny", "did you mean show?"),
    ("show slurm-h10", "did you mean slurm-h100?"),
    ("show", "recipes show: no NAME is given\n  for example distft recipes show sft-tiny"),
    ("copy sft-tiny", "recipes copy sft-tiny: no FILE is given\n  for example distft recipes copy sft-tiny mine.yaml"),
    ("copy", "recipes copy: no NAME and no FILE is given"),
    ("show sft-tiny dpo-tiny", "dpo-tiny: is more than is asked for"),
    ("show sft-tiny --json", "--json: is of the list alone"),
    ("copy sft-tiny nowhere/mine.yaml", "cannot be written"),
])  # fmt: skip
def test_mistakes_about_recipes(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", *words.split()]) == 2
    assert said in capsys.readouterr().err


def test_with_json_an_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "nothing", "--json"]) == 2
    told = capsys.readouterr()
    assert told.err.startswith("distft: ")
    said = json.loads(told.out)
    assert (f"distft: {said['error']}\n", said["kind"], said["exit_status"]) == (told.err, "UserError", 2)


def test_a_plan_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "sft-tiny", "--json"]) == 0
    plan = Plan.model_validate_json(capsys.readouterr().out)
    assert (plan.recipe, plan.kind, plan.fits) == ("sft-tiny", "local", True)


@pytest.mark.parametrize("cluster", ["one-node-8xh100", "slurm-h100", "slurm-cpu"])
def test_a_plan_needs_no_such_machine(cluster: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "ppo-tiny", "--cluster", cluster, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cluster"] == cluster


def test_a_dry_run_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"data.{name}.0.limit=32" for name in ("train", "eval", "test")]
    assert main(["train", "sft-tiny", *rows, "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["state"]) == ("sft-tiny", "ready to start")
    assert told["run_dir"] == str(here / "runs" / "sft-tiny")
    assert list(here.iterdir()) == []


def test_overrides_may_stand_on_both_sides_of_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    overridden = ["name=a", "--cluster", "local", "train.steps=30", "train.global_batch_size=4", "--json", "seed=3"]
    assert main(["plan", "sft-tiny", *overridden]) == 0
    plan = Plan.model_validate_json(capsys.readouterr().out)
    assert (plan.recipe, plan.batch.units) == ("a", 4)


def test_nobody_reads_the_output(here: Path) -> None:
    """``distft recipes | head -0``: silence."""
    process = subprocess.Popen([*DISTFT, "recipes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=here)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    told = process.stderr.read()
    assert (process.wait(60), told) == (CLOSED_PIPE, b"")


# ---- what goes wrong


def fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raising(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("distft.config.load.shipped_recipes", raising)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "distft: interrupted\n"),
        (StoppedOnRequest("stopped at step 3"), 75, "distft: stopped at step 3\n"),
        (
            RunFailed("died", role="policy", rank=1, node="a", log="RUN/logs/policy-1.log"),
            1,
            "policy rank 1 on a: died",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "distft: the disk is full"),
        (
            OSError(errno.EROFS, "Read-only file system", "/x/y"),
            3,
            "distft: /x/y: read-only file system\n  give a place",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 3, "distft: /x/y: permission denied\n  give a"),
    ],
)
def test_endings(
    error: BaseException, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, error)
    assert main(["recipes"]) == status
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_a_defect_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails(monkeypatch, ZeroDivisionError("by nothing"))
    assert main(["recipes"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("distft: a defect: ZeroDivisionError: by nothing\n")


def test_what_is_refused_without_a_file_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, PermissionError(errno.EPERM, "Operation not permitted"))
    assert main(["recipes"]) == 1
    assert "a defect: PermissionError: [Errno 1] Operation not permitted" in capsys.readouterr().err


def test_a_defect_moves_no_cursor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fails(monkeypatch, ValueError("\x1b[2Jgone"))
    assert main(["recipes"]) == 1
    assert capsys.readouterr().err.endswith("distft: a defect: ValueError: \\x1b[2Jgone\n")


def test_a_broken_pipe_that_is_not_ours_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert main(["recipes"]) == 1
    assert "a defect: BrokenPipeError" in capsys.readouterr().err


def test_a_defect_of_a_run_leaves_its_traceback_in_the_log(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("distft.launch.on_ray.for_plans.connect", raising)
    assert main(["train", "sft-tiny", "--quiet", "tracking.wandb.mode=disabled"]) == 1
    told = capsys.readouterr().err
    run_dir = here / "runs" / "sft-tiny"
    log = run_dir / "logs" / "driver.log"
    assert told == f"distft: a defect: ZeroDivisionError: by nothing\n  the traceback is in {log}\n"
    written = log.read_text()
    assert "Traceback" in written
    assert 'ZeroDivisionError("by nothing")' in written
    ending = json.loads((run_dir / "exit.json").read_text())
    assert (ending["class"], ending["exit_status"]) == ("defect", 1)
    assert not (run_dir / "lease.json").exists()


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("run mine.yaml", "did you mean train?"), ("resume runs/a", "did you mean train?"),
        ("stop runs/a", "did you mean cancel?"), ("download mine.yaml", "did you mean fetch?"),
        ("'my recipe.yaml' train.steps=3", "distft train 'my recipe.yaml' train.steps=3"),
    ],
)  # fmt: skip
def test_a_verb_by_another_name(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(typed)) == 2
    assert hint in capsys.readouterr().err


def test_what_others_call_a_verb_is_none_and_means_one() -> None:
    _, verbs = parsers()
    assert not set(MEANT) & set(verbs)
    assert set(MEANT.values()) <= set(verbs)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("report mine.yaml", "is a file, not the folder of a run\n  did you mean runs/mine?"),
        ("status mine", "there is no such folder\n  did you mean runs/mine?"),
        ("status nothing", "there is no such folder\n  give the output_dir of a run"),
        ("report other.yaml", "is a file, not the folder of a run\n  give the output_dir of a run"),
    ],
)
def test_a_run_by_what_its_recipe_is_called(
    here: Path, typed: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "runs" / "mine").mkdir(parents=True)
    (here / "runs" / "mine" / "events.jsonl").write_text("")
    (here / "mine.yaml").write_text("output_dir: runs/mine\n")
    (here / "other.yaml").write_text("output_dir: runs/other\n")
    assert main(typed.split()) == 2
    assert said in capsys.readouterr().err


def test_the_run_of_a_shipped_recipe_is_found_where_it_lies(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "runs" / "sft-tiny" / "final").mkdir(parents=True)
    (here / "runs" / "sft-tiny" / "final" / "config.json").write_text("{}")
    assert main(["plan", "dpo-tiny", "models.policy.path=run:sft-tiny"]) == 2
    assert "did you mean run:runs/sft-tiny?" in capsys.readouterr().err


def test_a_run_that_is_missing_is_made_by_the_recipe_that_lies_here(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "my first.yaml").write_text("output_dir: runs/mine  # here\n")
    assert main(["plan", "dpo-tiny", "models.policy.path=run:runs/mine"]) == 2
    assert "make it with: distft train 'my first.yaml'" in capsys.readouterr().err


def test_hardware_is_no_key_of_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "sft-tiny", "gpus=1"]) == 2
    assert "hardware stands in a cluster file" in capsys.readouterr().err


def test_what_an_encoding_lacks_is_spelled_out(here: Path) -> None:
    code = "import distft.cli as cli; cli.main = lambda: print('\\N{MATHEMATICAL LEFT WHITE SQUARE BRACKET}')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; cli.run_main()"], env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\u27e6\n", "")


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("train sft-tiny dpo-tiny", "one recipe, then keys such as optimizer.learning_rate=2e-6"),
        ("train sft-tiny train.steps 5", "write train.steps=VALUE"),
        ("recipes sft-tiny", "distft recipes show sft-tiny prints it"),
        ("recipes local", "distft recipes show local prints it"),
    ],
)
def test_a_word_too_few(typed: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(typed.split()) == 2
    assert hint in capsys.readouterr().err


def test_the_runs_of_a_folder_are_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "other"):
        folder = here / "runs" / name
        folder.mkdir(parents=True)
        write_recipe(load_recipe("sft-tiny", [f"name={name}"]), folder)
        (folder / "events.jsonl").write_text("")
        if name == "one":
            assert main(["compare", "runs"]) == 2
            assert f"distft report {folder} shows it" in capsys.readouterr().err
    assert main(["compare", "runs"]) == 0
    assert "recipes: no difference but names and folders" in capsys.readouterr().out
