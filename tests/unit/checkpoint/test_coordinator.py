from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distft.checkpoint.coordinator import Coordinator, SaveFailed, named_checkpoint
from distft.checkpoint.layout import step_name
from distft.checkpoint.lease import LeaseLost, acquire
from distft.checkpoint.manifest import FileRecord, NotWritten, faults
from distft.common.errors import UserError
from tests.harness import disks
from tests.harness.damage import flip
from tests.harness.owner import Mine

from .conftest import LAYOUTS, save

Names = Callable[[], list[str]]


def test_a_committed_checkpoint_is_found_with_its_progress(coordinator: Coordinator, names: Names) -> None:
    path = save(coordinator, 50, progress={"step": 50, "kl_coef": 0.1, "wandb_id": "x"})
    found = coordinator.newest()
    assert found is not None
    assert (found.path, found.step, found.rejected) == (path, 50, ())
    assert found.progress == {"step": 50, "kl_coef": 0.1, "wandb_id": "x"}
    assert found.manifest.layouts == LAYOUTS
    assert (found.manifest.owner, found.manifest.fingerprint) == ("mine", "abc")
    assert names() == ["step_00000050"]


def test_nothing_yet(coordinator: Coordinator) -> None:
    assert coordinator.newest() is None
    assert coordinator.abandon_staging() == []


def test_staging_is_not_a_checkpoint(coordinator: Coordinator) -> None:
    save(coordinator, 10)
    coordinator.begin(20)
    found = coordinator.newest()
    assert found is not None
    assert found.step == 10


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: flip(path / "value" / "rank_0.pt"), "value/rank_0.pt was changed or damaged"),
        (lambda path: os.truncate(path / "policy" / "rank_1.pt", 3), "policy/rank_1.pt has 3 bytes"),
        (lambda path: (path / "policy" / "rank_0.pt").unlink(), "policy/rank_0.pt is missing"),
        (lambda path: shutil.rmtree(path / "value"), "value/rank_0.pt is missing"),
        (lambda path: (path / "progress.json").write_text("{}"), "progress.json has 2 bytes"),
        (lambda path: (path / "manifest.json").unlink(), "never committed"),
        (lambda path: os.truncate(path / "manifest.json", 40), "cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_used(
    coordinator: Coordinator, damage: Callable[[Path], Any], reason: str
) -> None:
    save(coordinator, 10)
    path = save(coordinator, 20)
    damage(path)
    found = coordinator.newest()
    assert found is not None
    assert found.step == 10
    [(refused, why)] = found.rejected
    assert refused == path
    assert reason in why
    assert faults(found.path) == []


def test_only_damaged_checkpoints_stop_the_run_instead_of_starting_from_scratch(coordinator: Coordinator) -> None:
    for step in (10, 20):
        flip(save(coordinator, step) / "policy" / "rank_0.pt")
    with pytest.raises(UserError, match=r"step_00000020: policy/rank_0.pt was changed") as caught:
        coordinator.newest()
    assert "step_00000010" in str(caught.value)
    assert "checkpoint.resume=never" in str(caught.value)


def test_retention_keeps_the_newest_and_what_is_not_ours(
    coordinator: Coordinator, names: Names, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    (folder / step_name(1)).mkdir(parents=True)  # no manifest: somebody else's
    (folder / step_name(1) / "notes.txt").write_text("keep me")
    (folder / "best").mkdir()
    for step in (10, 20, 30, 40):
        save(coordinator, step)
    assert names() == ["best", step_name(1), step_name(30), step_name(40)]


def test_the_pinned_one_stays_until_another_is(coordinator: Coordinator, names: Names) -> None:
    coordinator.pinned = 10
    for step in (10, 20, 30, 40):
        save(coordinator, step)
    assert names() == [step_name(10), step_name(30), step_name(40)]
    coordinator.pinned = 50
    save(coordinator, 50)
    assert names() == [step_name(40), step_name(50)]


def test_retention_goes_by_what_is_on_disk_also_in_a_new_process(tmp_path: Path, names: Names) -> None:
    first = Coordinator(tmp_path, 3, Mine())
    for step in (10, 20, 30):
        save(first, step)
    save(Coordinator(tmp_path, 2, Mine(), attempt=2), 40)
    assert names() == [step_name(30), step_name(40)]


def test_a_damaged_checkpoint_does_not_count_as_kept(coordinator: Coordinator, names: Names) -> None:
    save(coordinator, 10)
    flip(save(coordinator, 20) / "policy" / "rank_0.pt")
    assert coordinator.newest() is not None  # which reads the hashes and so finds out
    save(coordinator, 30)
    assert step_name(10) in names()
    save(coordinator, 40)
    assert names() == [step_name(30), step_name(40)]


def test_a_checkpoint_that_is_a_link_is_left_alone(coordinator: Coordinator, tmp_path: Path) -> None:
    outside = save(coordinator, 10).rename(tmp_path / "outside")
    (tmp_path / "checkpoints" / step_name(10)).symlink_to(outside)
    for step in (20, 30, 40):
        save(coordinator, step)
    assert faults(tmp_path / "outside") == []
    assert (tmp_path / "checkpoints" / step_name(10)).is_symlink()


def test_the_same_step_again_replaces_it(coordinator: Coordinator, names: Names) -> None:
    save(coordinator, 10, content=b"old")
    path = save(coordinator, 10, content=b"new")
    assert (path / "policy" / "rank_0.pt").read_bytes().startswith(b"new")
    assert names() == [step_name(10)]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "no rank reported"),
        ([FileRecord("b", 3, "0"), NotWritten("value rank 1: No space left")], "value rank 1: No space left"),
        ([FileRecord("policy/a", 3, "0")], "policy/a is missing"),
        ([FileRecord("b", 4, "0")], "b has 3 bytes, 4 were written"),
        ([FileRecord("b", 3, "0"), FileRecord("b", 3, "1")], "two ranks wrote b"),
        ([FileRecord("policy", 3, "0")], "policy is not a plain file"),
    ],
)
def test_a_report_that_does_not_hold_is_not_committed(
    coordinator: Coordinator, names: Names, files: list[FileRecord | NotWritten], reason: str
) -> None:
    staging = coordinator.begin(10)
    (staging / "policy").mkdir()
    (staging / "b").write_text("abc")
    with pytest.raises(SaveFailed, match=reason):
        coordinator.commit(10, files, {}, {})
    assert names() == []


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_refuses_leaves_the_commit_before(
    coordinator: Coordinator, names: Names, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    before = save(coordinator, 10)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    def save_and_fail_at_the_call() -> None:
        if call == "mkdir":
            monkeypatch.setattr(os, call, refuse)
        staging = coordinator.begin(20)
        (staging / "a").write_text("abc")
        monkeypatch.setattr(os, call, refuse)
        coordinator.commit(20, [FileRecord("a", 3, "0")], {}, {})

    with pytest.raises(SaveFailed, match=os.strerror(code)):
        save_and_fail_at_the_call()
    monkeypatch.undo()
    assert faults(before) == []
    coordinator.abandon_staging()
    assert names() == [step_name(10)]
    save(coordinator, 20)


def test_a_failed_replacement_puts_the_former_one_back(
    coordinator: Coordinator, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(coordinator, 10, content=b"old")
    real = os.rename

    def refuse(source: Path, target: Path) -> None:
        if target.name == step_name(10) and "staging" in source.name:
            raise OSError(errno.EIO, "broken")
        real(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(SaveFailed, match="broken"):
        save(coordinator, 10, content=b"new")
    assert names() == [step_name(10)]
    found = coordinator.newest()
    assert found is not None
    assert (found.path / "policy" / "rank_0.pt").read_bytes().startswith(b"old")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    with disks.small_disk(path, 4):
        yield path


def test_a_disk_that_is_really_full(disk: Path) -> None:
    coordinator = Coordinator(disk, 2, Mine())
    before = save(coordinator, 10)
    staging = coordinator.begin(20)
    (staging / "a").write_bytes(b"abc")
    filler = disks.fill(disk)
    with pytest.raises(SaveFailed, match="No space"):
        coordinator.commit(20, [FileRecord("a", 3, "0")], {"pad": "x" * 10_000}, {})
    found = coordinator.newest()
    assert found is not None
    assert (found.path, found.rejected) == (before, ())
    filler.unlink()
    assert save(coordinator, 20).name == step_name(20)


def test_a_disk_that_is_really_read_only(disk: Path) -> None:
    coordinator = Coordinator(disk, 2, Mine())
    before = save(coordinator, 10)
    staging = coordinator.begin(20)
    (staging / "a").write_bytes(b"abc")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(SaveFailed, match="Read-only"):
        coordinator.commit(20, [FileRecord("a", 3, "0")], {}, {})
    with pytest.raises(SaveFailed, match="Read-only"):
        coordinator.begin(30)
    found = coordinator.newest()
    assert found is not None
    assert found.path == before


def test_who_lost_the_lease_cannot_begin_or_commit(tmp_path: Path, names: Names) -> None:
    with acquire(tmp_path) as lease:
        coordinator = Coordinator(tmp_path, 2, lease)
        staging = coordinator.begin(10)
        (staging / "a").write_text("abc")
        (tmp_path / "lease.json").unlink()
        with acquire(tmp_path) as other:
            for attempt in (lambda: coordinator.begin(20), lambda: coordinator.rewind(0), coordinator.abandon_staging,
                            lambda: coordinator.commit(10, [FileRecord("a", 3, "0")], {}, {})):  # fmt: skip
                with pytest.raises(LeaseLost, match="must not write"):
                    attempt()
            assert names() == [staging.name]
            # The new owner clears it: even a former owner who had asked already finds nothing to rename.
            assert Coordinator(tmp_path, 2, other).abandon_staging() == [staging]
            assert names() == []


class Sleeper:
    """Falls asleep right after the last time it made sure that the run is its own; meanwhile another starts."""

    token = "sleeper"

    def __init__(self, run_dir: Path, awake_for: int) -> None:
        self.run_dir, self.awake_for = run_dir, awake_for

    def require(self) -> None:
        self.awake_for -= 1
        if self.awake_for == 0:
            Coordinator(self.run_dir, 2, Mine(), attempt=2).abandon_staging()


def test_a_sleeper_past_the_last_check_cannot_publish(tmp_path: Path, names: Names) -> None:
    with pytest.raises(SaveFailed, match="No such file"):
        save(Coordinator(tmp_path, 2, Sleeper(tmp_path, awake_for=3)), 10)
    assert names() == []
    save(Coordinator(tmp_path, 2, Sleeper(tmp_path, awake_for=4)), 10)  # one that wakes up in time can
    assert names() == [step_name(10)]


def test_explicit(coordinator: Coordinator, tmp_path: Path) -> None:
    first, second = save(coordinator, 10), save(coordinator, 20)
    assert named_checkpoint(first).step == 10
    assert named_checkpoint(tmp_path).step == 20
    flip(second / "policy" / "rank_0.pt")
    with pytest.raises(UserError, match="rank_0.pt was changed"):
        named_checkpoint(second)
    with pytest.raises(UserError, match="no such checkpoint"):
        named_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="has no checkpoint"):
        named_checkpoint(tmp_path / "empty")


def test_rewind_sets_later_ones_aside_until_the_next_commit(tmp_path: Path, names: Names) -> None:
    coordinator = Coordinator(tmp_path, 3, Mine())
    for step in (10, 20, 30):
        save(coordinator, step)
    assert [path.name for path in coordinator.rewind(10)] == [step_name(30), step_name(20)]
    found = coordinator.newest()
    assert found is not None
    assert found.step == 10
    assert sum(name.startswith(".superseded") for name in names()) == 2
    Coordinator(tmp_path, 3, Mine(), attempt=2).abandon_staging()
    assert sum(name.startswith(".superseded") for name in names()) == 2
    save(coordinator, 15)
    assert names() == [step_name(10), step_name(15)]


def test_rewind_to_the_beginning(coordinator: Coordinator) -> None:
    save(coordinator, 0)
    coordinator.rewind(-1)
    assert coordinator.newest() is None


# For each of the calls of one save: a process that is killed at that call. Prints how many calls there are.
CHILD = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from conftest import save
    from tests.harness.owner import Mine
    from distft.checkpoint.coordinator import Coordinator

    root, name, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    real, count, deadly = getattr(os, name), 0, 0

    def counted(*arguments, **named):
        global count
        count += 1
        if count == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    def one_save(run):
        global count
        coordinator = Coordinator(run, 1, Mine())
        save(coordinator, 10)
        count = 0
        setattr(os, name, counted)
        save(coordinator, step, content=b"new")
        setattr(os, name, real)

    one_save(root / "whole")
    moments = count
    for deadly in range(1, moments + 1):
        pid = os.fork()
        if pid == 0:
            one_save(root / str(deadly))
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, deadly
    print(moments)
"""


@pytest.mark.parametrize("step", [20, 10])
@pytest.mark.parametrize("call", ["rename", "fsync", "lstat"])
def test_killed_at_any_moment_of_a_save_a_whole_checkpoint_is_left(tmp_path: Path, call: str, step: int) -> None:
    code = textwrap.dedent(CHILD).format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), call, str(step)], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    moments = int(done.stdout)
    assert moments >= 3
    seen = set()
    for number in range(1, moments + 1):
        coordinator = Coordinator(tmp_path / str(number), 1, Mine(), attempt=2)
        coordinator.abandon_staging()
        found = coordinator.newest()
        assert found is not None, number
        assert faults(found.path) == []
        assert found.rejected == ()
        assert {path.name for path in coordinator.folder.iterdir()} <= {step_name(10), step_name(step)}
        seen.add((found.path / "policy" / "rank_0.pt").read_bytes()[:3])
        save(coordinator, 30)
        assert [path.name for path in coordinator.folder.glob("step_*")] == [step_name(30)]
    assert seen == {b"wei", b"new"}  # both sides of the commit were met
