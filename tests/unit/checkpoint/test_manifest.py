from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from distft.checkpoint.manifest import (
    FileRecord,
    Manifest,
    ManifestError,
    faults,
    read_manifest,
    record_files,
)
from distft.checkpoint.role_layout import RoleLayout
from tests.harness.damage import flip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "step_00000050"
    (path / "policy").mkdir(parents=True)
    (path / "policy" / "rank_0.pt").write_bytes(bytes(range(256)) * 50_000)
    (path / "progress.json").write_text("{}")
    records = record_files(path, ["policy/rank_0.pt", "progress.json"])
    Manifest(50, tuple(records), {"policy": RoleLayout(2, 3)}, "fingerprint", "token", 3, 12.5).write(path)
    return path


def test_round_trip(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert (manifest.step, manifest.layouts, manifest.fingerprint) == (50, {"policy": RoleLayout(2, 3)}, "fingerprint")
    assert (manifest.owner, manifest.attempt, manifest.time) == ("token", 3, 12.5)
    assert manifest.num_bytes == 256 * 50_000 + 2
    assert json.loads((folder / "manifest.json").read_text())["format"] == 2
    assert faults(folder) == []


def test_a_flipped_bit_is_found_by_its_hash_only(folder: Path) -> None:
    flip(folder / "policy" / "rank_0.pt", 7_000_000)
    assert faults(folder) == ["policy/rank_0.pt was changed or damaged: its hash differs"]
    assert faults(folder, hashes=False) == []


def test_a_truncated_file(folder: Path) -> None:
    os.truncate(folder / "policy" / "rank_0.pt", 1000)
    assert faults(folder) == ["policy/rank_0.pt has 1000 bytes, 12800000 were written"]


def test_missing_files_are_all_named(folder: Path) -> None:
    (folder / "policy" / "rank_0.pt").unlink()
    (folder / "progress.json").unlink()
    assert faults(folder) == ["policy/rank_0.pt is missing", "progress.json is missing"]


def test_a_link_instead_of_a_file(folder: Path, tmp_path: Path) -> None:
    path = folder / "policy" / "rank_0.pt"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert faults(folder) == ["policy/rank_0.pt is not a plain file"]


def test_no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert faults(folder) == ["no manifest.json: it was never committed"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"step": 50', '"step": 60', "own hash"),
        ('"ranks": 2', '"ranks": 4', "own hash"),
        ('"format": 2', '"format": 1', "format 1, this distft reads format 2: what wrote it can go on with it"),
        ("{", "[", "cannot be read"),
    ],
)
def test_a_changed_manifest(folder: Path, old: str, new: str, reason: str) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ManifestError, match=reason):
        read_manifest(folder)
    assert len(faults(folder)) == 1


def test_every_single_flipped_bit_of_a_manifest_is_found(folder: Path) -> None:
    path = folder / "manifest.json"
    good = path.read_bytes()
    before = read_manifest(folder)
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :])
        try:
            assert read_manifest(folder) == before, position  # white space: nothing has changed
        except ManifestError:
            continue


def test_a_folder_under_another_steps_name(folder: Path) -> None:
    other = folder.rename(folder.with_name("step_00000060"))
    assert faults(other) == ["manifest.json is of step 50"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "policy/../../x", ""])
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="inside the checkpoint"):
        record_files(tmp_path, [name])
    Manifest(50, (FileRecord(name, 1, "0"),), {}, "", "", 1, 0.0).write(tmp_path)
    assert any("inside the checkpoint" in fault for fault in faults(tmp_path))


def test_records_are_synced_with_their_folders(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "policy" / "deep").mkdir(parents=True)
    (tmp_path / "policy" / "deep" / "a").write_text("1")
    (tmp_path / "policy" / "b").write_text("2")
    (tmp_path / "other").write_text("3")
    assert [record.path for record in record_files(tmp_path, ["policy/b", "policy/deep/a"])] == [
        "policy/b",
        "policy/deep/a",
    ]
    expected = ("policy/b", "policy/deep/a", "policy/deep", "policy", "")
    assert sorted(synced) == sorted(str(tmp_path / path) for path in expected)
