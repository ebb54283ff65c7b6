"""Whatever ends a run ends it wholly: the cause is named, and no process is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from distft.cli import main
from tests.e2e.conftest import (
    JUDGED,
    SECRETS,
    SFT,
    URL_SECRET,
    Start,
    Verb,
    checkpoints,
    computed,
    dpo,
    events,
    exit_record,
    marked,
    ppo,
    weights,
)  # fmt: skip
from tests.harness.exposure import assert_hidden

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

OVER_S = 20.0  # from the death of a worker to the end of the run
SEEN_S = 5.0
# The policy's two ranks are what dies and waits here; one rank of each other role is enough to do so beside them.
ONE_EACH = tuple(f"placement.{role}.ranks=1" for role in ("reference", "reward", "value"))
BUSY = "update PpoPolicy from step 8\n"  # in step 3, four optimizer steps each


def assert_ends_because_of(verb: Verb, since: float, role: str, rank: int) -> None:
    """The run ends because of this worker, and says so everywhere."""
    assert verb.end(60) == 1, verb.output
    over = time.monotonic() - since
    gone = over + verb.assert_nothing_left()
    (failure,) = [event for event in events(verb.folder, "failure") if event["attempt"] == len(starts(verb))]
    seen = failure["time"] - (time.time() - time.monotonic()) - since
    print(
        f"{role} rank {rank}: failure written after {seen:.1f} s, run over after {over:.1f} s, gone after {gone:.1f} s"
    )
    assert gone < OVER_S
    log = str(verb.folder / "logs" / f"{role}-{rank}.log")
    node = os.uname().nodename
    assert f"distft: {role} rank {rank} on {node}: its process died" in verb.output
    assert f"log: {log}" in verb.output
    saved = checkpoints(verb.folder)
    on = f"goes on from the checkpoint of step {max(saved)}\n" if saved else "begins anew: there is no checkpoint yet\n"
    assert f"  the same command {on}" in verb.output
    assert "Traceback" not in verb.output
    ended = exit_record(verb.folder)
    assert (ended["class"], ended["exit_status"]) == ("death", 1)
    for record in (ended, failure):
        assert (record["role"], record["rank"], record["node"], record["log"]) == (role, rank, node, log)
    assert ended["cause"] == "its process died: killed by SIGKILL"


def starts(verb: Verb) -> list[object]:
    """The attempts of the run folder."""
    return list(events(verb.folder, "start"))


def assert_killing_ends(verb: Verb, role: str, rank: int, *, while_in: str = BUSY) -> None:
    """The run ends because of a rank that is sent SIGKILL while the policy is in a stage."""
    verb.wait_for_stage("policy-1", while_in)
    pid = verb.pid(role, rank)
    parent = psutil.Process(psutil.Process(pid).ppid())
    forked = "distft.groups.fork_server" in parent.cmdline()
    assert forked == (role != "data"), "a rank is forked here; the data worker, which imports no torch, is started"
    since = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert_ends_because_of(verb, since, role, rank)


def test_a_ppo_run_survives_the_death_of_a_worker_of_its_driver_and_of_its_ray(sft: Path, start: Start) -> None:
    """A worker's by itself, in the same process, from the last step, of which there is a copy in memory, and its Ray's,
    in another, from the checkpoint; so does the same command, after the driver's. The data worker's ends no attempt.
    The end is that of a run nothing happened to."""
    words = ppo(sft, "train.steps=4", "recovery.max_restarts=3", *ONE_EACH)
    undisturbed = start(*words, folder="undisturbed")
    undisturbed.wait_for_stage("policy-1", BUSY)
    assert_hidden(marked(undisturbed.mark), (*SECRETS.values(), URL_SECRET))
    assert undisturbed.end() == 0, undisturbed.output
    words = (*words, "checkpoint.memory_every=1")
    verb = start(*words)
    verb.wait_for_stage("policy-1", "update PpoPolicy from step 0\n")
    os.kill(verb.pid("data", 0), signal.SIGKILL)
    for ended in (verb.pid, lambda *_: verb.process.pid):
        verb.wait_for_stage("policy-1", "update PpoPolicy from step 12\n")
        verb.log_starts["policy-1"] = (verb.folder / "logs" / "policy-1.log").stat().st_size
        os.kill(ended("policy", 1), signal.SIGKILL)
    assert verb.end() == -signal.SIGKILL
    verb.assert_nothing_left()
    assert checkpoints(verb.folder) == [2]
    assert_restarted(verb, "policy", 1, from_step=3)
    (replaced,) = events(verb.folder, "replaced")
    assert (replaced["role"], replaced["rank"], replaced["attempt"], replaced["at"]) == ("data", 0, 1, "step 1")
    (resumed,) = events(verb.folder, "resume")
    assert not Path(resumed["path"]).parent.exists(), "what it kept in memory is gone with it"
    verb = start(*words)
    verb.wait_for_stage("policy-1", BUSY)
    os.kill(verb.pid_of("gcs_server"), signal.SIGKILL)
    assert verb.end() == 0, verb.output
    assert [event["attempt"] for event in events(verb.folder, "resume")] == [2, 3, 4]
    assert [event["step"] for event in events(verb.folder, "resume")] == [3, 2, 2]
    of_ray = events(verb.folder, "restart")[1]
    assert (verb.folder / "logs" / "ray" / "gcs_server.out").is_file(), "what ended it is kept"
    assert of_ray["cause"] == f"Ray on {os.uname().nodename} has ended: its gcs_server died"
    assert "Traceback" not in verb.output
    assert exit_record(verb.folder)["attempt"] == 4
    assert main(["bisect", str(undisturbed.folder), str(verb.folder)]) == 0, "and every recorded step is"
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "says"), [("logs/driver.log", "stage: exporting\n"), ("events.jsonl", '"done"')])
def test_a_run_whose_ray_dies_when_it_is_nearly_over_ends_well(start: Start, file: str, says: str) -> None:
    """Ray itself would end its process after a minute, with 1, though all was done."""
    words = (*SFT, "recovery.max_restarts=1")
    undisturbed = start(*words, folder="undisturbed")
    assert undisturbed.end() == 0, undisturbed.output
    verb = start(*words)
    path = verb.folder / file
    verb.wait_for(lambda: path.exists() and says in path.read_text(), says)
    os.kill(verb.pid_of("gcs_server"), signal.SIGKILL)
    assert verb.end() == 0, verb.output
    assert "Traceback" not in verb.output
    verb.assert_nothing_left()
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)


def assert_restarted(verb: Verb, role: str, rank: int, *, from_step: int) -> None:
    """Once, from a copy in memory, because of this worker, as the ledger and the terminal say."""
    (failure,), (restart,) = events(verb.folder, "failure"), events(verb.folder, "restart")
    print(f"{role} rank {rank}: trained again after {restart['seconds']:.1f} s")
    node = os.uname().nodename
    for event in (failure, restart):
        assert (event["role"], event["rank"], event["node"]) == (role, rank, node)
        assert "its process died: killed by SIGKILL" in event["cause"]
    assert (failure["attempt"], restart["attempt"], restart["from_step"]) == (1, 2, from_step)
    assert restart["from_memory"]
    assert f"attempt 1 has ended: {role} rank {rank} on {node}: its process died" in verb.output
    assert f"restart 1 of 3, from the copy in memory of step {from_step}" in verb.output
    assert "Traceback" not in verb.output


@pytest.mark.slow
def test_a_dead_teacher_is_named(sft: Path, start: Start) -> None:
    words = ("train", "distill-tiny", *SFT[2:], f"models.teacher.path=run:{sft}", "models.teacher.init=null")
    verb = start(*words, "placement.teacher.ranks=1", "recovery.max_restarts=0")
    assert_killing_ends(verb, "teacher", 0, while_in="update Distill from step 2\n")


def killed_twice_in(verb: Verb, stage: str) -> None:
    """Its policy's second rank, in that stage of two attempts; with the second the run has failed."""
    for _ in range(2):
        verb.wait_for_stage("policy-1", stage)
        verb.log_starts["policy-1"] = (verb.folder / "logs" / "policy-1.log").stat().st_size
        os.kill(verb.pid("policy", 1), signal.SIGKILL)
    assert verb.end(60) == 1, verb.output
    verb.assert_nothing_left()


@pytest.mark.slow
def test_a_step_that_kills_its_rank_twice_ends_the_run(start: Start) -> None:
    """It would do so for ever; and who started from the beginning is restarted from what the run has saved since."""
    verb = start(*SFT, "recovery.max_restarts=3", "checkpoint.resume=never")
    killed_twice_in(verb, "update Sft from step 2\n")
    assert [event["from_step"] for event in events(verb.folder, "restart")] == [2]
    assert "step 3 has failed twice in the same way: another restart would not help" in verb.output
    assert f"log: {verb.folder / 'logs' / 'policy-1.log'}" in verb.output
    assert "Traceback" not in verb.output
    ended = exit_record(verb.folder)
    assert (ended["class"], ended["attempt"], ended["rank"]) == ("death", 2, 1)


@pytest.mark.slow
def test_what_is_in_memory_when_no_restart_is_left_becomes_a_checkpoint(start: Start) -> None:
    """And the same command goes on from there, though its run had no checkpoint."""
    words = (*SFT, "checkpoint.every=100")
    undisturbed = start(*words, folder="undisturbed")
    assert undisturbed.end() == 0, undisturbed.output
    copied = (*words, "checkpoint.memory_every=1", "recovery.max_restarts=1")
    verb = start(*copied)
    killed_twice_in(verb, "update Sft from step 3\n")
    (restart,), (kept,) = events(verb.folder, "restart"), checkpoints(verb.folder)
    assert restart["from_memory"]
    assert kept >= restart["from_step"] >= 3
    assert f"no attempt follows: the copy in memory of step {kept} has become a checkpoint" in verb.output
    verb = start(*copied)
    assert verb.end() == 0, verb.output
    assert [event["step"] for event in events(verb.folder, "resume")] == [restart["from_step"], kept]
    assert computed(verb.folder) == computed(undisturbed.folder)
    assert weights(verb.folder) == weights(undisturbed.folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "rank"),
    [(role, rank) for role in ("policy", "reference", "reward", "value") for rank in (0, 1)] + [("data", 0)],
)
def test_the_death_of_any_worker_ends_the_run(sft: Path, start: Start, role: str, rank: int) -> None:
    assert_killing_ends(start(*ppo(sft)), role, rank)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["joining the process group\n", "generate iteration 1\n", "saving to"])
def test_a_death_in_any_phase_ends_the_run(sft: Path, start: Start, stage: str) -> None:
    assert_killing_ends(start(*ppo(sft)), "policy", 1, while_in=stage)


def test_a_frozen_worker_is_named(sft: Path, start: Start) -> None:
    deadlines = ("recovery.deadline_floor_s=5", "recovery.deadline_factor=2")
    verb = start(*dpo(sft, *deadlines, "placement.reference.ranks=1"))
    verb.wait_for_stage("policy-0", "update Dpo from step 2\n")
    pid = verb.pid("policy", 1)
    since = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    assert verb.end(120) == 1, verb.output
    print(f"a frozen worker: run over after {time.monotonic() - since:.1f} s")
    verb.assert_nothing_left()
    ended = exit_record(verb.folder)
    assert (ended["class"], ended["role"], ended["rank"]) == ("deadline", "policy", 1), verb.output
    assert "frozen" in ended["cause"]
    assert f"distft: policy rank 1 on {os.uname().nodename}: no answer to update" in verb.output
    waiting = verb.log("policy-0")
    assert "most recent call first" in waiting, "the stacks of the rank that waited for the frozen one"
    assert "in update" in waiting or "in step" in waiting
    assert "most recent call first" in verb.log("reference-0"), "and of those that had nothing to do"


@pytest.mark.slow
def test_sigterm_once_stops_with_a_checkpoint_and_sigint_twice_at_once(sft: Path, start: Start) -> None:
    """The one from a scheduler to the driver alone, the other from a terminal to all of its processes."""
    words = (*SFT, *JUDGED)
    verb = start(*words)
    verb.wait_for_stage("policy-1", "update Sft from step 2\n")
    second = start(*words)
    os.kill(verb.process.pid, signal.SIGTERM)
    assert verb.end(60) == 75, verb.output
    verb.assert_nothing_left()
    ended = exit_record(verb.folder)
    assert (ended["class"], ended["exit_status"]) == ("stopped", 75)
    stopped = events(verb.folder, "stop")[0]["step"]
    assert stopped >= 3
    assert checkpoints(verb.folder)[-1] == stopped
    assert f"stopped after step {stopped} with a checkpoint: the same command goes on from there" in verb.output
    assert second.end() in (0, 2)

    verb = start(*words)
    verb.wait_for(lambda: events(verb.folder, "resume"), "resume")
    os.killpg(verb.process.pid, signal.SIGINT)
    time.sleep(0.02)
    since = time.monotonic()
    os.killpg(verb.process.pid, signal.SIGINT)
    assert verb.end(30) == 130, verb.output
    print(f"after the second SIGINT: over after {time.monotonic() - since:.1f} s")
    verb.assert_nothing_left()
    assert exit_record(verb.folder)["class"] == "interrupted"

    verb = start(*words)
    assert verb.end() == 0, verb.output
    assert weights(verb.folder) == weights(sft)
    assert computed(verb.folder) == computed(sft)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_a_terminal_sends_to_all_its_processes_stops_in_order(start: Start, number: signal.Signals) -> None:
    """Ctrl-C, ``timeout`` and a closed terminal reach the whole process group: Ray and the workers must not heed it."""
    words = [*SFT, "train.steps=100000", "checkpoint.every=50000"]
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests under nohup ignore it, and so would the run
    try:
        verb = start(*words)
    finally:
        signal.signal(signal.SIGHUP, former)
    verb.wait_for_stage("policy-1", "update Sft from step 2\n")
    os.killpg(verb.process.pid, number)
    assert verb.end(60) == 75, verb.output
    verb.assert_nothing_left()
    assert exit_record(verb.folder)["class"] == "stopped"
    (stopped,) = checkpoints(verb.folder)
    verb = start(*words, f"train.steps={stopped + 1}")
    assert verb.end() == 0, verb.output
    assert [event["step"] for event in events(verb.folder, "resume")] == [stopped]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_asked_for_while_starting(sft: Path, start: Start, number: signal.Signals) -> None:
    """Nothing has been trained that could be lost; the same command starts."""
    verb = start(*SFT)
    verb.wait_for(lambda: starts(verb), "start")
    os.kill(verb.process.pid, number)
    assert verb.end(120) == 75, verb.output
    verb.assert_nothing_left()
    verb = start(*SFT)
    assert verb.end() == 0, verb.output
    assert weights(verb.folder) == weights(sft)


@pytest.mark.slow
def test_sigkill_of_the_driver_while_starting_leaves_nothing(start: Start) -> None:
    verb = start(*SFT)
    verb.wait_for(lambda: events(verb.folder, "group_ready"), "the first group")
    os.kill(verb.process.pid, signal.SIGKILL)
    assert verb.end() == -signal.SIGKILL
    print(f"nothing was left after {verb.assert_nothing_left():.1f} s")
