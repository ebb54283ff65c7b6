from __future__ import annotations

from pathlib import Path

import pytest

from distft.checkpoint.layout import aside, aside_name, published, staging_name, step_name, step_of


@pytest.mark.parametrize("step", [0, 50, 99_999_999, 123_456_789])
def test_names_go_both_ways(step: int) -> None:
    assert step_of(step_name(step)) == step


@pytest.mark.parametrize("name", ["step_50", "step_000000050", "step_00000050.old", "step_-0000050", "Step_00000050",
                                  ".staging-step_00000050-1-ab", "final", "step_00000050\n"])  # fmt: skip
def test_other_names_are_not_ours(name: str) -> None:
    assert step_of(name) is None


def test_negative_step() -> None:
    with pytest.raises(ValueError, match="-1"):
        step_name(-1)


def test_published_newest_first_without_files_and_links(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        (tmp_path / step_name(step)).mkdir()
    (tmp_path / step_name(300)).write_text("a file")
    (tmp_path / step_name(400)).symlink_to(tmp_path / step_name(9))
    (tmp_path / "step_best").mkdir()
    assert [step for step, _ in published(tmp_path)] == [100, 20, 9]
    assert published(tmp_path / "missing") == []


def test_aside(tmp_path: Path) -> None:
    made = {staging_name(5, 2): ("staging", 5), aside_name("replaced", 6): ("replaced", 6),
            aside_name("superseded", 7): ("superseded", 7)}  # fmt: skip
    for name in [*made, ".staging-mine", ".trash"]:
        (tmp_path / name).mkdir()
    assert {entry.path.name: (entry.kind, entry.step) for entry in aside(tmp_path)} == made


def test_staging_names_differ() -> None:
    assert staging_name(5, 1) != staging_name(5, 1)
