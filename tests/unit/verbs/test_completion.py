"""A real bash completes verbs, options, recipes and keys from the printed script, and runs nothing for it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from distft.config.load import load_recipe, shipped_recipes
from distft.config.yaml_file import leaves
from distft.verbs.completion_script import keys
from tests.unit.verbs.conftest import Typed

# Sets what readline would, as bash splits words at = and :, and prints the answers.
ASK = """
source "$SCRIPT"
COMP_WORDS=("$@")
COMP_CWORD=$(( $# - 1 ))
_distft
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(distft: Typed, tmp_path: Path) -> Path:
    status, output, error = distft("completion", "bash")
    assert (status, error) == (0, "")
    path = tmp_path / "completion.bash"
    path.write_text(output)
    return path


def completed(script: Path, *words: str) -> list[str]:
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run(
        [bash, "--norc", "-c", ASK, "ask", "distft", *words], capture_output=True, text=True, check=True,
        env={"SCRIPT": str(script), "PATH": ""}, cwd=script.parent,
    )  # fmt: skip
    assert done.stderr == "", "nothing is run for it"
    return done.stdout.split()


def test_words_of_a_real_bash(script: Path) -> None:
    assert completed(script, "tr") == ["train"]
    assert {"plan", "eval", "completion", "--help"} <= set(completed(script, ""))
    assert completed(script, "eval", "--ju") == ["--judge", "--judge-model", "--judge-key", "--judge-deadline"]
    assert completed(script, "eval", "x", "--rows", "") == ["pairs", "answers", "prompts"]
    assert completed(script, "train", "dpo-t") == ["dpo-tiny"]
    assert set(completed(script, "train", "")) >= {name for name, _ in shipped_recipes()}
    assert completed(script, "train", "sft-tiny", "optimizer.learning") == ["optimizer.learning_rate="]
    assert completed(script, "plan", "x", "--cluster", "slurm-c") == ["slurm-cpu"]
    assert completed(script, "submit", "sl")[0] == "slurm"
    assert completed(script, "recipes", "sh") == ["show"]
    assert completed(script, "generate", "m", "temp") == ["temperature="]
    assert completed(script, "report", "ru") == [], "bash looks for a file then"


def test_a_terminal_completes_at_tab(script: Path) -> None:
    """Typed into an interactive bash, a tab pressed."""
    import pty
    import select
    import time

    leader, follower = pty.openpty()
    shell = subprocess.Popen(
        [str(shutil.which("bash")), "--norc", "--noprofile", "-i"], stdin=follower, stdout=follower, stderr=follower,
        env={**os.environ, "PS1": "> ", "TERM": "dumb"}, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    try:
        os.write(leader, f"source {script}; echo rea''dy\r".encode())
        seen, typed, until = b"", False, time.monotonic() + 120
        while b"optimizer.learning_rate=" not in seen and time.monotonic() < until:
            if select.select([leader], [], [], 1.0)[0]:
                seen += os.read(leader, 4096)
            if b"ready" in seen and not typed:
                typed = True
                os.write(leader, b"distft train sft-tiny optimizer.learning_r\t")
        assert b"optimizer.learning_rate=" in seen, seen
    finally:
        shell.kill()
        shell.wait()
        os.close(leader)


def test_every_key_may_be_typed() -> None:
    found = keys()
    assert {"train.steps=", "models.reference.engine.zero_stage=", "algorithm.beta=", "algorithm.kind="} <= set(found)
    assert {"optimizer.learning_rate=", "data.train.0.path=", "tracking.wandb.mode="} <= set(found)
    assert {"models.policy.peft.r=", "models.reward.peft.train=", "models.value.optimizer.betas="} <= set(found)
    assert not any(" " in name for name in found)
    assert len(found) == len(set(found)) > 300


def test_every_key_that_a_shipped_recipe_has_may_be_typed() -> None:
    """But for those of lists' later entries and of names that the recipe makes up."""
    typed = {name.removesuffix("=") for name in keys()}
    for name, _ in shipped_recipes():
        written = {
            key for key, _ in leaves(load_recipe(name).model_dump(mode="json", exclude_unset=True, by_alias=True))
        }
        assert {key for key in written if not re.search(r"\.[1-9]\d*\b|\.rewards\.|\.columns\.", key)} <= typed, name


def test_zsh_reads_the_same(distft: Typed) -> None:
    _, bash, _ = distft("completion", "bash")
    _, zsh, _ = distft("completion", "zsh")
    head, _, rest = zsh.partition("# distft")
    assert "bashcompinit" in head
    assert rest.replace("completion zsh", "completion bash") == bash.partition("# distft")[2]
