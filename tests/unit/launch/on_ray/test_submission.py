"""What is handed to a Ray cluster: every word arrives as it was typed, whatever is in it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.load import load_recipe, recipe_file
from distft.config.pipeline import load_pipeline
from distft.launch.on_ray.submission import (
    HIDDEN,
    SERVER,
    RayJob,
    number_of,
    numbered,
    packed,
    packed_pipeline,
    ray_job,
    with_id,
)
from distft.tracking.stop_request import JOB
from tests.harness import outside_method

ADDRESS = {SERVER: "http://10.0.0.1:8265"}
CLUSTER = """
name: theirs
kind: ray
nodes: auto
node: {cpus: auto, memory_gib: auto}
address: "http://head:8265/"
environment: {HF_TOKEN: null, PLAIN: "a b", MISSING: null}
"""


def job(folder: Path, *overrides: str, cluster: str = "ray-existing", **environment: str) -> RayJob:
    recipe = load_recipe("sft-tiny", overrides)
    return ray_job(packed(recipe, "sft-tiny", overrides), cluster, ADDRESS | environment, folder)


def test_the_whole_submission(tmp_path: Path) -> None:
    shown = job(tmp_path, "output_dir=runs/it's", HF_HOME="/data/hf").shown()
    folder, run_dir = shlex.quote(str(tmp_path)), tmp_path / "runs/it's"
    lost = f"distft: the folder {tmp_path} is not seen on the cluster: submit from a folder on the shared file system"
    assert shown["entrypoint"] == (
        f"package=\"$PWD\"; cd -- {folder} || {{ echo '{lost}' >&2; exit 3; }}; exec python -m distft.cli train "
        '"$package/recipe.yaml" --cluster "$package/cluster.yaml" \'output_dir=runs/it\'"\'"\'s\''
    )
    assert shown["submission_id"].startswith("distft-sft-tiny-")
    assert shown["submission_id"].endswith("-1")
    assert shown["address"] == "http://10.0.0.1:8265"
    assert shown["run_dir"] == str(run_dir)
    assert shown["runtime_env"] == {
        "working_dir": ["cluster.yaml", "recipe.yaml"],
        "env_vars": {"HF_HOME": HIDDEN, "PYTHONUNBUFFERED": "1", "RAY_JOB_STOP_WAIT_TIME_S": "1800"},
    }


def test_only_two_small_texts_travel(tmp_path: Path) -> None:
    files = job(tmp_path).files
    assert set(files) == {"recipe.yaml", "cluster.yaml"}
    assert sum(map(len, files.values())) < 10_000


def test_a_pipeline_is_the_same_where_it_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the recipes of its stages that are files, and a method of one of them from beside it."""
    (here := tmp_path / "here").mkdir()
    (there := tmp_path / "there").mkdir()
    shutil.copy(outside_method.__file__, here / "method.py")
    recipe = yaml.safe_load(recipe_file("orpo-tiny").read_text())
    (here / "mine.yaml").write_text(json.dumps(recipe | {"algorithm": {"kind": "./method.py:Unlikelihood"}}))
    stages = {
        "sft": {"recipe": "sft-tiny"},
        "mine": {"recipe": "mine.yaml", "models": {"policy": {"path": "stage:sft"}}},
    }
    (here / "both.yaml").write_text(json.dumps({"name": "both", "output_dir": "/runs/both", "stages": stages}))
    monkeypatch.chdir(here)
    said = ["stages.sft.seed=4", "common.tracking.samples_every=7"]
    sent = load_pipeline("both.yaml", said)
    made = ray_job(packed_pipeline(sent, "both.yaml", said), "ray-existing", ADDRESS, tmp_path)
    assert made.id_prefix.startswith("distft-both-")
    assert made.run_dir == Path("/runs/both")
    assert set(made.files) == {"recipe.yaml", "stage-mine.yaml", "cluster.yaml"}

    monkeypatch.chdir(there)
    for name, text in made.files.items():
        Path(name).write_text(text)
    words = shlex.split(made.entrypoint.partition('--cluster "$package/cluster.yaml"')[2])
    again = load_pipeline("recipe.yaml", words)
    assert [(stage.name, stage.needs, stage.recipe) for stage in again.stages] == [
        (stage.name, stage.needs, stage.recipe) for stage in sent.stages
    ]


def test_variables_are_those_that_the_cluster_file_names_and_values_from_here_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(CLUSTER)
    made = job(tmp_path, cluster=str(file), HF_TOKEN="hf_secret", OTHER="no")
    assert made.address == "http://head:8265", "the file's address wins"
    assert made.environment["HF_TOKEN"] == "hf_secret"
    assert made.environment["PLAIN"] == "a b"
    assert not {"OTHER", "MISSING", SERVER} & set(made.environment)
    assert "hf_secret" not in json.dumps(made.shown())
    assert with_id(made.environment, "x-1")[JOB] == "x-1"


# Everything but NUL, which no argument can hold, and lone surrogates, which are no text.
WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, max_size=4), WORDS)
def test_words_arrive_as_they_were_typed(tmp_path: Path, words: list[str], name: str) -> None:
    """Through a real shell, as Ray starts it; ``python`` there tells what it was given."""
    tell = tmp_path / "bin" / "python"
    tell.parent.mkdir(exist_ok=True)
    tell.write_text(
        f"#!{sys.executable}\nimport json, os, sys\nprint(json.dumps([os.getcwd(), sys.argv[1:]]))\n", encoding="utf-8"
    )
    tell.chmod(0o755)
    folder = tmp_path / ("f" + name.replace("/", "_"))
    folder.mkdir(exist_ok=True)
    package = tmp_path / "package it's $(x)"
    package.mkdir(exist_ok=True)
    overrides = [f"name={word}" for word in words]
    made = ray_job(packed(load_recipe("sft-tiny", []), "sft-tiny", overrides), "ray-existing", ADDRESS, folder)
    env = {"PATH": f"{tell.parent}:{os.environ['PATH']}"}
    done = subprocess.run(made.entrypoint, shell=True, cwd=package, env=env, capture_output=True, check=True)
    where, given_words = json.loads(done.stdout)
    train = ["-m", "distft.cli", "train", f"{package}/recipe.yaml", "--cluster", f"{package}/cluster.yaml"]
    assert (where, given_words) == (str(folder), [*train, *overrides])


def test_a_folder_that_the_cluster_does_not_see_is_named(tmp_path: Path) -> None:
    made = job(tmp_path / "it's not there")
    done = subprocess.run(made.entrypoint, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert f"the folder {tmp_path}/it's not there is not seen on the cluster" in done.stderr


def test_the_cluster_files_own_python_is_used(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(CLUSTER + "virtualenv: /opt/my env\n")
    assert "exec '/opt/my env/bin/python' -m distft.cli train" in job(tmp_path, cluster=str(file)).entrypoint


@pytest.mark.parametrize(
    ("line", "key"),
    [("modules: [cuda/12.8]", "modules"), ("container: {runtime: apptainer, image: i.sif}", "container")],
)
def test_what_a_running_ray_cannot_be_given_is_said_so(tmp_path: Path, line: str, key: str) -> None:
    """One message with the key and the reason; nothing is asked of the cluster."""
    file = tmp_path / "theirs.yaml"
    file.write_text(CLUSTER + line + "\n")
    with pytest.raises(UserError, match=f"`{key}` belongs to clusters of kind slurm only: a Ray cluster") as refused:
        job(tmp_path, cluster=str(file))
    assert refused.value.exit_status == 2
    assert "before `ray start`" in str(refused.value)


def test_scratch_is_where_the_jobs_processes_put_temporary_files(tmp_path: Path) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(CLUSTER + "scratch: /local/me\n")
    assert job(tmp_path, cluster=str(file)).environment["TMPDIR"] == "/local/me"
    file.write_text(CLUSTER.replace('PLAIN: "a b"', "TMPDIR: /mine") + "scratch: /local/me\n")
    assert job(tmp_path, cluster=str(file)).environment["TMPDIR"] == "/mine", "what is said by name counts"


@pytest.mark.parametrize(
    "address", ["auto", "head:8265", "ray://head:10001", "http://", "http://head:8265/x", "http://a b"]
)
def test_an_address_must_be_explicit(tmp_path: Path, address: str) -> None:
    with pytest.raises(UserError, match="is not an explicit address"):
        job(tmp_path, **{SERVER: address})


def test_no_address_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFallsShort, match="where its job server listens is not said"):
        job(tmp_path, **{SERVER: ""})


def test_another_kind_of_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is of kind slurm, not ray"):
        job(tmp_path, cluster="slurm-cpu")


def test_runs_have_ids_of_their_own_and_jobs_of_a_run_are_numbered(tmp_path: Path) -> None:
    one, other = job(tmp_path, "output_dir=a").id_prefix, job(tmp_path, "output_dir=b").id_prefix
    assert one != other
    assert one == job(tmp_path, "output_dir=a", "train.steps=7").id_prefix
    assert number_of(one, numbered(one, 12)) == 12
    assert number_of(one, numbered(other, 12)) == 0
    assert number_of(one, None) == 0
