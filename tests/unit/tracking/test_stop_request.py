"""RUN/stop.json: whom it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.tracking.stop_request import STOP, StopRequest, own_names, read_request


def test_a_task_of_an_array_is_meant_by_its_own_number_and_with_the_whole() -> None:
    names = own_names({"SLURM_JOB_ID": "19", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2"})
    assert names == ("17_2", "17", "19")
    assert StopRequest(jobs=("17_2",)).means("", names)
    assert not StopRequest(jobs=("17_1",)).means("", names)
    assert own_names({}) == ()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"tokens": 1}'])
def test_a_torn_request_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / STOP).write_text(content)
    assert read_request(tmp_path) is None
