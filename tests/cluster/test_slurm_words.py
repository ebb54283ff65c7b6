"""Words stay words through the real sbatch, the batch script and srun, on every node."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.cluster.slurm_bed import SlurmBed
from tests.cluster.slurm_runs import SCRIPT
from tests.unit.launch.slurm.test_shell import WORD

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

# Stands in the place of Python on every node, and writes down what it is told.
PRINT_ARGUMENTS = """#!{python}
import json, os, pathlib, sys
folder = pathlib.Path(os.environ["SEEN"])
(folder / os.environ["SLURMD_NODENAME"]).write_text(json.dumps(sys.argv[1:]))
"""
HOSTILE = [
    "output_dir=/runs/a b", "name=$(touch hacked)", "x=`touch hacked`", "y='\"", "z=a\nb", "\n#SBATCH --uid=0\n", "*",
    "~", "$HOME", "\\n", "%j", "{task}", "日本 é", "; exit 3", "&& touch hacked", "--", "a=--signal", "!!", "\t", " ",
    "#", "a\\\nb",
]  # fmt: skip


# Every example is a job; a failing one is small enough to be read as it is.
@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(generated=st.lists(WORD, min_size=20, max_size=60))
def test_through_sbatch_and_srun(slurm: SlurmBed, shared_folder: Path, generated: list[str]) -> None:
    folder = shared_folder / "words $(touch hacked) é"
    folder.mkdir(exist_ok=True)
    program = folder / "print arguments"
    program.write_text(PRINT_ARGUMENTS.format(python=sys.executable))
    program.chmod(0o755)
    for seen in folder.glob("n[12]"):
        seen.unlink()
    words = ["recipe.yaml", *HOSTILE, *generated]
    run = folder / "run"
    job = slurm.sbatch(
        [f"--chdir={folder}", "--job-name=a\n#SBATCH --nodes=7", SCRIPT, "--python", program, "--run-dir", run, *words],
        env={"SEEN": str(folder)},
    )
    # The program ends well, but it was no launcher: a job whose run never began has not ended well.
    assert slurm.wait(job, 60) == "FAILED", (folder / f"slurm-{job}.out").read_text()
    # The name's second line is no option. (scontrol would print it as a line of its own.)
    assert slurm.run(["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%D"]).stdout.strip() == "2"
    for node in ("n1", "n2"):
        seen_there = json.loads((folder / node).read_text())
        assert seen_there[-len(words) :] == words
        assert seen_there[:4] == ["-u", "-m", "distft.launch.node", "--launch"]
        assert seen_there[4] == f"{run}/launch/{job}.0"
    assert not list(folder.rglob("hacked"))
