"""Bits turned in every file of a run: what a run, or who reads it, depends on is found out; the rest does no harm."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distft.checkpoint.layout import MANIFEST
from distft.checkpoint.manifest import faults, read_manifest
from distft.cli import main
from distft.common.sums import SUMS, sum_faults
from distft.report.model_card import CARD
from tests.e2e.conftest import SFT
from tests.harness.damage import bits_turned, turned

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
AGAIN = (*SFT[1:], "evaluation.metrics=[rougeL,f1]", "tracking.samples_every=2")  # what the run was started with
# What the ledgers and the records of a run are read by.
READERS = (
    ("status", "{run}"), ("status", "{run}", "--json"), ("checkpoints", "{run}"), ("report", "{run}"),
    ("compare", "{run}", "{other}"), ("bisect", "{run}", "{other}"), ("logs", "{run}"),
    ("train", *AGAIN, "output_dir={run}", "--dry-run"), ("export", "{run}", "{out}"),
)  # fmt: skip


@pytest.fixture
def run(sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished run, to damage."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(sft, tmp_path / "copy"))


def files(folder: Path) -> list[Path]:
    """All that have content, at whatever depth."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def test_in_a_checkpoint_every_turned_bit_is_found(run: Path) -> None:
    checkpoint = max((run / "checkpoints").glob("step_*"))
    assert faults(checkpoint) == []
    there = files(checkpoint)
    assert {path.name for path in there} >= {"manifest.json", "progress.json", "states_1.safetensors", "rng_1.pt"}
    for path in there:
        if path.name != MANIFEST:
            with bits_turned(path, 12) as each:
                for seed in each:
                    assert faults(checkpoint), seed
    whole = read_manifest(checkpoint)
    with bits_turned(checkpoint / MANIFEST, 1500) as each:
        for seed in each:
            assert faults(checkpoint, hashes=False) or read_manifest(checkpoint) == whole, seed


def test_in_a_result_every_turned_bit_is_found_by_who_takes_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    final = run / "final"
    assert sum_faults(final) == []
    there = [path for path in files(final) if path.name != CARD]
    assert {path.name for path in there} >= {"config.json", "model.safetensors", "tokenizer.json", SUMS}
    for path in there:
        with bits_turned(path, 12) as each:
            for seed in each:
                assert sum_faults(final), seed
    weights = final / "model.safetensors"
    weights.write_bytes(turned(weights.read_bytes(), "weights"))
    for words in (
        ["generate", f"run:{run}", "Hello"],
        ["eval", f"run:{run}"],
        ["export", str(run), str(run / "out")],
        ["train", "dpo-tiny", f"models.policy.path=run:{run}", "output_dir=next", "--dry-run"],
    ):
        capsys.readouterr()
        assert main(words) == 2
        assert "model.safetensors was changed or damaged" in capsys.readouterr().err
    assert not (run / "out").exists()
    assert main(["train", *AGAIN, f"output_dir={run}", "--dry-run"]) == 0
    assert "ready to start" in capsys.readouterr().out, "it is made again, of the last checkpoint"


@pytest.mark.parametrize("times", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_in_the_records_of_a_run_a_turned_bit_ends_no_reader(
    sft: Path, run: Path, times: int, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [path for path in sorted(run.iterdir()) if path.is_file() and path.stat().st_size]
    assert {path.name for path in records} >= {"recipe.yaml", "plan.json", "events.jsonl", "metrics.jsonl", "exit.json"}

    def told(words: tuple[str, ...]) -> tuple[int, str]:
        out = run.parent / "out"
        shutil.rmtree(out, ignore_errors=True)
        capsys.readouterr()
        return main([word.format(run=run, other=sft, out=out) for word in words]), capsys.readouterr().err

    assert [told(words)[0] for words in READERS] == [0] * len(READERS)
    wrong = []
    for path in records:
        with bits_turned(path, times) as each:
            for seed in each:
                for words in READERS:
                    status, text = told(words)
                    differ = words[0] == "bisect" and status == 1
                    if (status not in (0, 2, 3) and not differ) or "Traceback" in text:
                        wrong.append(f"{words[0]} {seed}: {status} {text[-600:]}")
    assert not wrong, "\n".join(wrong)
