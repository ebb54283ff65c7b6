"""RUN/jobs.jsonl: which jobs have worked on a run."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path

from distft.tracking.jobs import FILE, JobRecord, add_job, alone, read_jobs


def test_what_is_added_is_read_oldest_first(tmp_path: Path) -> None:
    first = JobRecord("slurm", "17", "slurm-cpu", submitted=1.5)
    second = JobRecord("ray", "ppo-é\n1", "ray-existing", address="http://10.0.0.1:8265", submitted=2.5)
    add_job(tmp_path / "new" / "run", first)
    add_job(tmp_path / "new" / "run", second)
    assert read_jobs(tmp_path / "new" / "run") == [first, second]
    assert len((tmp_path / "new" / "run" / FILE).read_text().splitlines()) == 2


def test_a_run_without_jobs_has_none(tmp_path: Path) -> None:
    assert read_jobs(tmp_path) == []


def test_torn_and_foreign_lines_are_left_out(tmp_path: Path) -> None:
    kept = JobRecord("slurm", "18", "c", submitted=3.0)
    add_job(tmp_path, kept)
    later = {"kind": "slurm", "job_id": "19", "cluster": "c", "submitted": 4.0, "added_later": 1}
    foreign = {"kind": "kubernetes", "job_id": "20", "cluster": "c"}
    with (tmp_path / FILE).open("a") as file:
        file.write(f'{json.dumps(later)}\n{json.dumps(foreign)}\n[1]\n{{"kind": "ra')
    assert [record.job_id for record in read_jobs(tmp_path)] == ["18", "19"]


def test_a_record_is_stamped_when_it_is_made() -> None:
    assert JobRecord("ray", "a", "b").submitted > 1.7e9


def test_a_later_line_about_a_job_replaces_the_one_before(tmp_path: Path) -> None:
    first, second = JobRecord("slurm", "17", "c", submitted=1.0), JobRecord("slurm", "18", "c", submitted=2.0)
    for record in (first, second, replace(first, taken_back=3.0)):
        add_job(tmp_path, record)
    assert read_jobs(tmp_path) == [replace(first, taken_back=3.0), second]


def test_submissions_of_one_run_wait_for_each_other(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with alone(tmp_path):
            order.append("second")

    thread = threading.Thread(target=second)
    with alone(tmp_path):
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]
    assert read_jobs(tmp_path) == []
