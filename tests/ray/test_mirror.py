"""Copies of states in memory: real keepers on a real Ray, of groups that write a file a rank when they are asked to."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from distft.checkpoint.coordinator import Coordinator, Found, SaveFailed
from distft.checkpoint.lease import acquire
from distft.checkpoint.manifest import NotWritten
from distft.clients.model_group import ModelGroup
from distft.common.errors import RunFailed
from distft.config.cluster import load_cluster
from distft.config.load import load_recipe
from distft.controller.mirror import Mirror
from distft.groups.handles import Call, WorkerInfo
from distft.groups.keepers import _KEEPER, PIECE, Keepers
from distft.groups.memory_folder import memory_path
from distft.launch.on_ray.cluster import Cluster
from distft.launch.on_ray.losses import Losses
from distft.launch.prepare import Prepared
from distft.launch.supervise import Supervisor
from distft.planning.machine import Machine
from distft.planning.plan import make_plan
from distft.tracking.tracker import Tracker
from tests.harness.fake_groups import Fake, Said
from tests.harness.owner import Mine
from tests.unit.controller.test_rl import session

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]

RECIPE = load_recipe("sft-tiny", [])
WITHIN_S = 60.0


@dataclass
class Writing(Said):
    """Writes the step that its copy is of; ``refused``: of which it has no room; ``lost``: whose file is gone when it
    is to be hashed."""

    refused: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()

    def _report(self, call: Call[Any], samples: list[int]) -> Any:
        folder = Path(call.args[0])
        if call.verb.name == "copy":
            step = int(folder.name.split("_")[1][:8])
            if step in self.refused:
                return NotWritten("policy rank 0: no space left on device")
            (folder / "policy").mkdir(parents=True)
            name = "lost" if step in self.lost else "states_0.safetensors"
            (folder / "policy" / name).write_bytes(bytes([step]) * (PIECE + 5))
            return ("policy/states_0.safetensors",)
        return super()._report(call, samples)


@dataclass
class Bed:
    """A mirror of a policy of one rank on this node; ``told``: of which steps a copy has failed, and why."""

    said: Writing = field(default_factory=Writing)
    told: list[tuple[int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.keepers = Keepers(WITHIN_S)
        self.mirror = Mirror(self.keepers, lambda _, step, cause: self.told.append((step, cause)))
        where = WorkerInfo(0, "here", 1, node_id=ray.get_runtime_context().get_node_id())
        self.models = {"policy": ModelGroup(Fake("policy", self.said, workers=(where,)))}

    def begin(self, attempt: int, found: Found | None = None) -> None:
        groups = {role: model.ranks for role, model in self.models.items()}
        self.mirror.begin(RECIPE, groups, attempt, found)

    def copy(self, step: int) -> None:
        state = {"step": step, "best": {"step": 0}}
        self.mirror.copy(RECIPE, self.models, step, state, lambda _: ())

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.keepers.folder.iterdir() if path.is_dir())


@pytest.fixture
def bed() -> Iterator[Bed]:
    one = Bed()
    one.begin(1)
    yield one
    folder = one.keepers.folder
    one.mirror.forget()
    wait_for(lambda: not folder.exists(), "its guard has removed it")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_the_next_attempt_has_the_newest_whole_copy_and_only_that_is_kept(bed: Bed) -> None:
    assert bed.mirror.newest("") is None
    bed.copy(1)
    bed.copy(2)
    wait_for(lambda: len(bed.kept()) <= 2, "never more than two")
    found = bed.mirror.newest("recipe")
    assert found is not None
    assert (found.step, found.progress["step"], found.in_memory) == (2, 2, True)
    assert found.manifest.fingerprint == "recipe"
    assert (found.path / "policy" / "states_0.safetensors").read_bytes() == b"\2" * (PIECE + 5)
    (record,) = found.manifest.files
    assert record.size == PIECE + 5
    (found.path.parent / "step_00000003-1").mkdir()  # of a rank that died while it wrote
    bed.begin(2, found)
    assert bed.kept() == ["step_00000002-1"]
    assert bed.mirror.step == 2
    bed.copy(3)
    bed.mirror.settle()
    wait_for(lambda: bed.kept() == ["step_00000003-2"], "the one before has gone")
    bed.begin(3, None)
    assert (bed.kept(), bed.mirror.step) == ([], 0), "the attempt begins with a newer checkpoint"
    assert bed.told == []


def test_where_no_attempt_follows_it_becomes_a_checkpoint(bed: Bed, tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, 3, Mine())
    bed.copy(4)
    found = bed.mirror.newest("")
    assert found is not None
    written = bed.mirror.write(found, coordinator)
    assert written == tmp_path / "checkpoints" / "step_00000004"
    again = coordinator.newest()
    assert again is not None
    assert (again.step, again.progress, again.in_memory) == (4, found.progress, False)
    assert again.manifest.layouts == found.manifest.layouts
    assert (written / "policy" / "states_0.safetensors").read_bytes() == b"\4" * (PIECE + 5)
    (tmp_path / "checkpoints").rename(tmp_path / "away")
    (tmp_path / "checkpoints").write_text("no folder")
    with pytest.raises(SaveFailed):
        bed.mirror.write(found, coordinator)


def test_a_copy_that_fails_is_told_and_the_one_before_stays(bed: Bed) -> None:
    bed.said.refused = (2,)
    bed.copy(1)
    bed.copy(2)
    assert bed.told == [(2, "policy rank 0: no space left on device")]
    found = bed.mirror.newest("")
    assert found is not None
    assert found.step == 1


def test_a_copy_that_its_keeper_cannot_hash_does_not_stay_beside_the_others(bed: Bed) -> None:
    """Or each would take its room of the node's memory until the attempt ends."""
    bed.said.lost = (2,)
    bed.copy(1)
    bed.copy(2)
    bed.mirror.settle()
    ((step, why),) = bed.told
    assert step == 2
    assert "states_0.safetensors" in why
    wait_for(lambda: bed.kept() == ["step_00000001-1"], "the one that failed has gone")
    assert bed.mirror.step == 1


def test_a_keeper_that_has_gone_since_it_was_asked_sends_nothing_and_is_named(bed: Bed) -> None:
    """Of a node that the next attempt does not have, so that it gets no other."""
    here = ray.get_runtime_context().get_node_id()
    assert bed.keepers.send("copy", {("of the former attempt", here): ["policy/states_0.safetensors"]}) == [
        "of the former attempt: its keeper has ended"
    ]


def test_copies_that_nobody_has_any_more_do_not_count_as_progress(cluster: Cluster, bed: Bed, tmp_path: Path) -> None:
    """Or a run whose every death takes its copies along would begin again and again."""
    recipe = load_recipe("sft-tiny", ["recovery.max_restarts=1", f"output_dir={tmp_path}"])
    plan = make_plan(recipe, load_cluster("local"), machine=Machine(cpus=4, memory_gib=16.0))
    with acquire(tmp_path) as lease, Tracker(tmp_path, attempt=1, resume_step=None, total_steps=None) as tracker:
        run = Supervisor(Prepared(recipe, load_cluster("local"), plan, tmp_path), lease, 1, quiet=True)
        run._mirror = bed.mirror
        bed.copy(1)
        losses = Losses(cluster)
        run._require_restart(RunFailed("it died", role="policy", rank=0, kind="death"), losses, tracker)
        bed.begin(2)
        bed.copy(2)
        bed.mirror.settle()
        bed.keepers.leave(())
        with pytest.raises(RunFailed, match="1 restarts brought no new checkpoint"):
            run._require_restart(RunFailed("it died", role="policy", rank=1, kind="death"), losses, tracker)


def test_a_death_in_an_evaluation_is_not_told_as_one_of_the_step_behind_it(cluster: Cluster, tmp_path: Path) -> None:
    """A replay of that step would evaluate nothing, and pass."""
    recipe = load_recipe("sft-tiny", ["recovery.max_restarts=3", f"output_dir={tmp_path}"])
    plan = make_plan(recipe, load_cluster("local"), machine=Machine(cpus=4, memory_gib=16.0))
    with acquire(tmp_path) as lease, Tracker(tmp_path, attempt=1, resume_step=None, total_steps=None) as tracker:
        run = Supervisor(Prepared(recipe, load_cluster("local"), plan, tmp_path), lease, 1, quiet=True)
        run._session = session(Said(), tmp_path / "session")
        run._session.evaluating = True
        losses, error = Losses(cluster), RunFailed("it died", role="policy", rank=0, kind="death")
        run._require_restart(error, losses, tracker)
        with pytest.raises(RunFailed, match="the evaluation before the first step has failed twice") as ended:
            run._require_restart(error, losses, tracker)
    assert "distft replay" not in str(ended.value)


def test_bytes_that_are_not_what_they_were_are_not_gone_on_from(bed: Bed) -> None:
    bed.copy(1)
    bed.mirror.settle()
    path = bed.keepers.folder / "step_00000001-1" / "policy" / "states_0.safetensors"
    with path.open("r+b") as file:
        file.seek(PIECE)
        file.write(b"\0")
    assert bed.mirror.newest("") is None
    assert bed.told == [(1, "no node that is left has policy/states_0.safetensors as it was")]


def test_a_keeper_that_dies_loses_its_copy_and_the_next_step_has_another(bed: Bed) -> None:
    bed.copy(1)
    bed.mirror.settle()
    folder = bed.keepers.folder
    os.kill(keeper_of(folder), signal.SIGKILL)
    wait_for(lambda: not folder.exists(), "gone with it")
    assert bed.mirror.newest("") is None
    assert bed.told == [(1, "no node that is left has policy/states_0.safetensors as it was")]
    bed.begin(2)
    bed.copy(2)
    folder = bed.keepers.folder
    os.kill(keeper_of(folder), signal.SIGKILL)
    wait_for(lambda: not folder.exists(), "gone with it")
    bed.copy(3)
    found = bed.mirror.newest("")
    assert found is not None
    assert found.step == 3
    assert bed.kept() == ["step_00000003-2"]


def test_what_cannot_be_handed_out_ends_the_attempt_and_the_next_goes_back_to_the_disk(bed: Bed) -> None:
    bed.copy(1)
    found = bed.mirror.newest("")
    assert found is not None
    bed.keepers.leave(())
    with pytest.raises(RunFailed, match="the copy of step 1 in memory could not be handed out") as caught:
        bed.begin(2, found)
    assert caught.value.kind == "death", "what may be over when it is tried again"
    assert bed.mirror.newest("") is None


def test_two_keepers_send_to_each_other_what_is_then_the_same(tmp_path: Path) -> None:
    names = [f"test-{os.getpid()}-{one}" for one in "ab"]
    folders = [memory_path(name) for name in names]
    keepers = [_KEEPER.remote() for _ in names]
    ray.get([keeper.open.remote(str(folder)) for keeper, folder in zip(keepers, folders, strict=True)])
    contents = {"a/states_0.safetensors": os.urandom(3 * PIECE + 1), "a/rng_0.pt": b""}, {"b/x": os.urandom(PIECE)}
    for folder, files in zip(folders, contents, strict=True):
        for path, content in files.items():
            (folder / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "copy" / path).write_bytes(content)
    sealed = ray.get([
        keeper.seal.remote("copy", list(files), other)
        for keeper, files, other in zip(keepers, contents, reversed(keepers), strict=True)
    ])  # fmt: skip
    assert [one.not_sent for one in sealed] == ["", ""]
    wanted = {record.path: record.sha256 for one in sealed for record in one.files}
    assert len(wanted) == 3
    for folder in folders:
        for path, content in {**contents[0], **contents[1]}.items():
            assert (folder / "copy" / path).read_bytes() == content
    assert ray.get([keeper.whole.remote("copy", wanted) for keeper in keepers]) == [list(wanted), list(wanted)]
    ray.kill(keepers[1])
    wait_for(lambda: not folders[1].exists(), "gone with its keeper")
    alone = ray.get(keepers[0].seal.remote("copy", list(contents[0]), keepers[1]))
    assert alone.not_sent
    assert alone.files == sealed[0].files
    ray.kill(keepers[0])
    wait_for(lambda: not folders[0].exists(), "gone with its keeper")


def keeper_of(folder: Path) -> int:
    """The process of Ray that holds the folder's lock."""
    (pid,) = [one.pid for one in psutil.process_iter() if "ray::Keeper" in first(one) and str(folder) in opened(one)]
    return pid


def opened(process: psutil.Process) -> set[str]:
    try:
        return {str(Path(file.path).parent) for file in process.open_files()}
    except psutil.Error:
        return set()


def first(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""
