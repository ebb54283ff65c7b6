"""What is shown for pasting is what is run, through a real bash; and shellcheck finds nothing in it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distft.common.errors import UserError
from distft.config.cluster import Cluster, load_cluster, shipped_clusters
from distft.launch.slurm.options import batch_script, render
from tests.unit.launch.slurm.slurm_examples import asked, everything

GOLDEN = Path(__file__).parent / "golden_slurm_commands.sh"
SCRIPT = Path("/opt/distft/slurm/train.sbatch")
UPDATE = "DISTFT_UPDATE_GOLDEN"
PYXIS = {"runtime": "pyxis", "image": "docker://registry.example/distft:1", "mounts": ["/data:/data"]}
APPTAINER = {"runtime": "apptainer", "image": "/images/distft.sif", "mounts": ["/data:/data:ro"]}
CLUSTERS: dict[str, Cluster] = {
    **{name: load_cluster(name) for name, _ in shipped_clusters() if load_cluster(name).kind == "slurm"},
    "everything": everything(),
    "everything-pyxis": everything(virtualenv=None, container=PYXIS),
    "everything-apptainer": everything(virtualenv=None, container=APPTAINER),
}
PRINT_ARGUMENTS = (
    f"#!{sys.executable}\nimport json, os, sys\nopen(os.environ['SEEN'], 'w').write(json.dumps(sys.argv))\n"
)


def command_of(cluster: Cluster) -> str:
    """What ``--dry-run`` prints, in three lines: the folders, Slurm's options, the script with its words."""
    overrides = ("train.steps=5", "data.train.0.path=/data/my file's.jsonl")
    words = asked(cluster, overrides=overrides, exported=("HF_HOME", "PATH"))
    shown = render(words, script=SCRIPT, python="/opt/env/bin/python").shell
    return shown.replace(" && ", " &&\n").replace(f" {SCRIPT} ", f" \\\n    {SCRIPT} ") + "\n"


@pytest.fixture(scope="module")
def golden() -> dict[str, str]:
    """The commands by cluster. DISTFT_UPDATE_GOLDEN=1 writes them anew; look at what has changed before you keep it.

    Of what a job runs they are all that is rendered: the script is one constant text.
    """
    if os.environ.get(UPDATE):
        commands = (f"\n# {name}\n{command_of(cluster)}" for name, cluster in CLUSTERS.items())
        GOLDEN.write_text("#!/usr/bin/env bash\n" + "".join(commands))
    _, *blocks = GOLDEN.read_text().split("\n# ")
    return {name: command for name, _, command in (block.partition("\n") for block in blocks)}


@pytest.mark.parametrize("name", CLUSTERS)
def test_the_command_is_the_golden_one(golden: dict[str, str], name: str) -> None:
    assert command_of(CLUSTERS[name]) == golden[name]


def test_there_is_no_golden_command_too_many(golden: dict[str, str]) -> None:
    assert list(golden) == list(CLUSTERS)


def test_shellcheck_finds_nothing(golden: dict[str, str], root: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian package shellcheck)")
    scripts = [batch_script(), *sorted(path for path in (root / "launchers").iterdir() if path.suffix != ".md"), GOLDEN]
    found = subprocess.run(
        ["shellcheck", "--severity=style", *map(str, scripts)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout


def test_nothing_in_the_script_is_evaluated() -> None:
    code = [line.split("#")[0] for line in batch_script().read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in code if any(word in line.split() for word in ("eval", "bash", "sh", "xargs"))]


def test_without_a_recipe_or_a_job_the_script_says_so() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    for words, said in (
        (["--python"], "takes a value"),
        ([], "no RECIPE given"),
        (["ppo-tiny"], "this is a batch script"),
    ):
        done = subprocess.run(
            ["bash", str(batch_script()), *words], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 2
        assert said in done.stderr


# ---- a step without a run

MODULES = """module() {
    [[ $2 == known/* ]] || { echo "module: unable to locate $2" >&2; return 1; }
    export LOADEDMODULES=$2
}
"""


def in_the_script(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script where ``srun`` is a program that writes down its arguments, on a site with modules."""
    srun = PRINT_ARGUMENTS.replace("(sys.argv)", "([*sys.argv, os.environ.get('LOADEDMODULES')])")
    for path, text in (("bin/srun", srun), ("modules/init/bash", MODULES)):
        program = folder / path
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(text)
        program.chmod(0o755)
    environment = {"PATH": f"{folder}/bin:/usr/bin:/bin", "SEEN": f"{folder}/seen", "MODULESHOME": f"{folder}/modules"}
    return subprocess.run(
        ["bash", str(batch_script()), *words], env=environment, capture_output=True, text=True, check=False
    )


def test_a_step_has_a_jobs_modules_and_container(tmp_path: Path) -> None:
    options = ["--module", "known/1", "--within", "in side", "--srun", "--time=1 0", "--python", "/my python"]
    done = in_the_script(tmp_path, *options, "--step", "-m", "it", "$(x) *")
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen[1:] == ["--export=ALL", "--time=1 0", "in side", "/my python", "-m", "it", "$(x) *", "known/1"]


def test_a_module_that_is_not_there_ends_a_step(tmp_path: Path) -> None:
    done = in_the_script(tmp_path, "--module", "lost/1", "--step", "-m", "it")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["module: unable to locate lost/1", "distft: module load lost/1 failed"]
    assert not (tmp_path / "seen").exists()


# ---- words stay words

HOSTILE = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
PARTS = st.sampled_from(
    [" ", "'", '"', "$(touch x)", "`id`", "\n", "\\", "$HOME", "; exit 3", "&&", "*", "~", "é", "日本", "--", "=", "%j",
     "{task}", "#SBATCH --uid=0", "!", "\t", "a"]
)  # fmt: skip
WORD = st.one_of(HOSTILE, st.lists(PARTS, min_size=1, max_size=5).map("".join))


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=WORD, run=WORD, overrides=st.lists(WORD, max_size=4), virtualenv=WORD)
def test_what_is_pasted_is_what_is_run(
    tmp_path: Path, name: str, run: str, overrides: list[str], virtualenv: str
) -> None:
    """Through a real bash, where ``sbatch`` is a program that writes down its arguments: unchanged, or refused."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    program = tmp_path / "bin" / "sbatch"
    program.write_text(PRINT_ARGUMENTS)
    program.chmod(0o755)
    here, seen = tmp_path / "here", tmp_path / "seen"
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir()
    run = run.replace("/", "-").replace("..", "-")
    words = asked(
        everything().model_copy(update={"virtualenv": virtualenv}), name=name, run_dir=str(here / run),
        overrides=tuple(overrides), folder=here,
    )  # fmt: skip
    try:
        made = render(words, script=Path("/opt/train.sbatch"), python="/opt/python")
    except UserError:
        assert re.search(r"[\x00-\x1f\x7f\\]", run), "nothing but what Slurm does not take in a path is refused"
        return
    environment = {"PATH": f"{program.parent}:/usr/bin:/bin", "SEEN": str(seen), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-c", made.shell], cwd=here, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(seen.read_text())[1:] == list(made.command[1:])
    assert list(made.command[len(made.command) - len(overrides) :]) == overrides
    assert {path.name for path in here.iterdir()} == {run}, "nothing but the run folder was made"
