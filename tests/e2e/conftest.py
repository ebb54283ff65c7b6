"""Verbs in processes of their own: started, watched through what they write, ended from outside.

Every process of a run inherits a mark in its environment, so that what a run leaves behind is found
wherever it hides (sessions of their own, other parents), and nothing else is ever touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MARK = "DISTFT_TEST_MARK"
# Canaries: no file of a run folder may hold one of these (see test_run_folder).
SECRETS = {
    "WANDB_API_KEY": "0badc0de" * 5,
    "HF_TOKEN": "hf_CanaryInTheEnvironment0000000001",
}
URL_SECRET = "canary-in-a-url"
# What is measured and not computed: different in every run.
MEASURED = ("time", "perf/", "memory/", "timing/", "rollout/tokens_per_second")

TINY = (
    "models.policy.init.hidden_size=32",
    "models.policy.init.num_layers=2",
    "models.policy.init.num_heads=2",
    "models.policy.init.vocab_size=400",
)
# What the shared SFT run also measures.
JUDGED = ("tracking.samples_every=2", "evaluation.metrics=[rougeL,f1]")
SMALL = (
    "train.steps=6",
    "train.global_batch_size=8",
    "checkpoint.every=2",
    "evaluation.every=0",
    "evaluation.max_samples=8",
    "tracking.samples_every=2",
    "data.train.0.limit=64",
    "data.eval.0.limit=8",
    "data.test.0.limit=8",
    "recovery.max_restarts=0",
)


@dataclass
class Verb:
    """A ``distft`` command that runs. ``folder`` is its run folder; output goes to a file beside it."""

    process: subprocess.Popen[bytes]
    folder: Path
    mark: str
    printed: Path
    started: float = field(default_factory=time.monotonic)
    log_starts: dict[str, int] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """Everything printed so far, standard output and errors."""
        return self.printed.read_text(errors="replace")

    def end(self, timeout_s: float = 300.0) -> int:
        """The exit status, once it has ended."""
        return self.process.wait(timeout_s)

    def wait_for(self, condition: Callable[[], Any], what: str, timeout_s: float = 240.0) -> Any:
        """The first true answer of ``condition``; an AssertionError where the verb ends before."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            found = condition()
            if found:
                return found
            assert self.process.poll() is None, f"ended before {what}:\n{self.output}"
            time.sleep(0.002)
        raise AssertionError(f"no {what} within {timeout_s} s:\n{self.output}")

    def wait_for_stage(self, worker: str, stage: str) -> None:
        """Waits until the log of ``worker`` ("policy-1") names this stage, in this attempt."""
        self.wait_for(lambda: f"stage: {stage}" in self.log(worker), f"stage {stage!r} of {worker}")

    def log(self, worker: str) -> str:
        """What this attempt has written to a worker's log."""
        path = self.folder / "logs" / f"{worker}.log"
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(self.log_starts.get(worker, 0))
            return file.read().decode(errors="replace")

    def pid(self, role: str, rank: int) -> int:
        """The process of a rank, as this attempt's events say."""
        told = lines(self.folder, "events")
        attempt = max(event["attempt"] for event in told)
        found = [event for event in told if event["attempt"] == attempt and event.get("role") == role]
        started = [worker for event in found if event["event"] == "group_ready" for worker in event["workers"]]
        replaced = [event for event in found if event["event"] == "replaced"]
        return int([worker for worker in (*started, *replaced) if worker["rank"] == rank][-1]["pid"])

    def pid_of(self, program: str) -> int:
        """The one process of this verb that runs the program with this name."""
        (pid,) = [pid for pid in marked(self.mark) if _program(pid) == program]
        return pid

    def left(self) -> list[str]:
        """The processes of this verb that are still there, itself included, as command lines."""
        return [_command(pid) for pid in marked(self.mark)]

    def assert_nothing_left(self, within_s: float = 20.0) -> float:
        """Seconds until no process of the verb is left; an AssertionError where some still are after ``within_s``."""
        since = time.monotonic()
        while left := self.left():
            assert time.monotonic() - since < within_s, f"left behind after {within_s} s: {left}"
            time.sleep(0.05)
        return time.monotonic() - since


Start = Callable[..., Verb]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """``start("train", recipe, *overrides, folder=..., **environment)``; what a test leaves is killed."""
    with starting(tmp_path) as starter:
        yield starter


@contextlib.contextmanager
def starting(workplace: Path) -> Iterator[Start]:
    """The fixture ``start`` for fixtures of another scope. Run folders lie below ``workplace``."""
    verbs: list[Verb] = []

    def start_verb(*words: str, folder: Path | str = "run", **environment: str) -> Verb:
        verbs.append(_start(words, workplace / folder, workplace, environment))
        return verbs[-1]

    try:
        yield start_verb
    finally:
        for verb in verbs:
            for pid in marked(verb.mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            verb.process.wait()


def _start(words: Sequence[str], folder: Path, workplace: Path, environment: dict[str, str]) -> Verb:
    mark = secrets.token_hex(16)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "WANDB_"))}
    printed = workplace / f"printed-{mark[:8]}.txt"
    logs = folder / "logs"
    starts = {path.stem: path.stat().st_size for path in logs.glob("*.log")} if logs.is_dir() else {}
    overrides = [f"output_dir={folder}"] if words[0] == "train" else []
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "distft.cli", *words, *overrides],
            cwd=workplace,
            env=kept | SECRETS | {MARK: mark, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Verb(process, folder, mark, printed, log_starts=starts)


def root_on_path() -> dict[str, str]:
    """The environment in which a verb finds what a recipe names of the tests: rules, environments."""
    return {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])}


def marked(mark: str) -> list[int]:
    """The living processes with this mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX" and wanted in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def _program(pid: int) -> str:
    with contextlib.suppress(OSError):  # it has just ended
        return Path(f"/proc/{pid}/exe").readlink().name
    return ""


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"{pid} (ended)"
    return f"{pid} {words.strip()[:160]}"


# ---- what a run has written


def lines(folder: Path, ledger: str) -> list[dict[str, Any]]:
    """The records of metrics, events or samples; a line that is being written is left out."""
    path = folder / f"{ledger}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def events(folder: Path, event: str) -> list[dict[str, Any]]:
    """The events of one name."""
    return [line for line in lines(folder, "events") if line["event"] == event]


def computed(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what is measured."""
    return [
        {name: value for name, value in line.items() if not name.startswith(MEASURED)}
        for line in lines(folder, "metrics")
    ]


def weights(folder: Path) -> bytes:
    """The file with the final weights."""
    return (folder / "final" / "model.safetensors").read_bytes()


def exit_record(folder: Path) -> dict[str, Any]:
    """``exit.json``."""
    content = json.loads((folder / "exit.json").read_text())
    assert isinstance(content, dict)
    return content


def checkpoints(folder: Path) -> list[int]:
    """The steps of the committed checkpoints."""
    return sorted(int(path.parent.name[5:]) for path in (folder / "checkpoints").glob("step_*/manifest.json"))


# ---- small recipes


SFT = (
    "train",
    "sft-tiny",
    *TINY,
    *SMALL,
    "optimizer.warmup_steps=0",
    "rollout.max_new_tokens=16",
    "tracking.samples_every=0",
)


def dpo(path: Path | str, *more: str) -> tuple[str, ...]:
    """A DPO run from the model of a run folder: policy and reference of two ranks."""
    words = (*SMALL, "optimizer.warmup_steps=0", "tracking.samples_every=0")
    return ("train", "dpo-tiny", f"models.policy.path=run:{path}", *words, *more)


def ppo(path: Path | str, *more: str) -> tuple[str, ...]:
    """A PPO run from the model of a run folder, which also becomes the reward model's: four groups of two ranks."""
    reward = [word.replace("models.policy.", "models.reward.") for word in TINY]
    return (
        "train", "ppo-tiny", f"models.policy.path=run:{path}", *reward, *SMALL,
        "rollout.max_new_tokens=12", *more,
    )  # fmt: skip


def grouped(path: Path | str, **algorithm: Any) -> tuple[str, ...]:
    """A run of a group method from the model of a run folder, scored by ``rules.py`` (of the harness) where it is
    started: a policy of two ranks."""
    keys = json.dumps({"epochs": 2, "minibatches": 2, **algorithm})
    return (
        "train", "grpo-tiny", f"algorithm={keys}", f"models.policy={{path: run:{path}, dtype: float32}}",
        "models.reward.functions=[rules:one_in_four]", "placement={policy: {ranks: 2}}",
        "data.train.0.path=builtin:dialogues", "data.eval.0.path=builtin:dialogues",
        "data.test.0.path=builtin:dialogues", "data.max_length=96", "data.max_prompt_length=64",
        *SMALL, "train.global_batch_size=4", "rollout.max_new_tokens=10", "rollout.samples_per_prompt=4",
    )  # fmt: skip


@pytest.fixture(scope="session")
def sft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished SFT run with a tiny model: where other runs start."""
    workplace = tmp_path_factory.mktemp("sft")
    with starting(workplace) as start:
        tag = f'tracking.wandb.tags=["https://user:{URL_SECRET}@example.org"]'
        # The last of its 6 steps is one, too, and is waited for.
        saves = ("checkpoint.every=4", "checkpoint.asynchronous=true")
        verb = start(*SFT, tag, *JUDGED, *saves, folder="run")
        assert verb.end() == 0, verb.output
        verb.assert_nothing_left()
    return workplace / "run"
