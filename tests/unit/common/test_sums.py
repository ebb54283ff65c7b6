from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from distft.common import sums
from distft.common.sums import SUMS, sum_faults, write_sums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "inner" / "with space").write_bytes(b"")
    (tmp_path / "README.md").write_text("mine")
    write_sums(tmp_path, but=("README.md",))
    return tmp_path


def test_the_sums_are_those_of_coreutils(folder: Path) -> None:
    assert (folder / SUMS).read_text().splitlines() == [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.bin",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  inner/with space",
    ]
    if shutil.which("sha256sum"):
        assert subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, check=False).returncode == 0


def test_what_changed_is_named(folder: Path) -> None:
    assert sum_faults(folder) == []
    (folder / "README.md").write_text("yours")
    assert sum_faults(folder) == []
    (folder / "a.bin").write_bytes(b"abd")
    assert sum_faults(folder) == ["a.bin was changed or damaged: its hash differs"]
    (folder / "inner" / "with space").unlink()
    assert sum_faults(folder) == ["inner/with space is missing"]


def test_no_sums_no_faults(tmp_path: Path) -> None:
    assert sum_faults(tmp_path) == []


@pytest.mark.parametrize("line", ["", "zz  a.bin", f"{'0' * 64}  /etc/passwd", f"{'0' * 64}  ../a.bin"])
def test_sums_that_are_none(folder: Path, line: str) -> None:
    """Among them such as would have other files looked at."""
    with (folder / SUMS).open("a") as file:
        file.write(f"{line}\n")
    assert sum_faults(folder) == [f"{SUMS} is damaged"]


def test_files_that_cannot_be_read_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ill(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path)) if path.name == "a.bin" else AssertionError(path)

    (folder / SUMS).write_text(f"{'0' * 64}  a.bin\n")
    monkeypatch.setattr(sums, "sha256_file", ill)
    cause = f"[Errno {errno.EIO}] Input/output error: '{folder / 'a.bin'}'"
    assert sum_faults(folder) == [f"a.bin cannot be read: {cause}"]
