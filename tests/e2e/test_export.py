"""``distft export`` from a run and from its checkpoints; and what a finished run answers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from distft.cli import main
from distft.common.sums import sum_faults
from distft.report.model_card import CARD

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture
def run(sft: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to break."""
    return Path(shutil.copytree(sft, tmp_path / "copy"))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def model_of(folder: Path) -> dict[str, bytes]:
    """All but the card, which tells of a run that has ended."""
    return {name: content for name, content in contents(folder).items() if name != CARD}


def export(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, bytes]:
    assert main(["export", str(source), str(target)]) == 0
    told = capsys.readouterr()
    assert told.out == f"exported to {target}\n"
    assert told.err == ""
    assert [path.name for path in target.parent.iterdir() if "draft" in path.name] == []
    return contents(target)


def test_a_finished_run_gives_its_result(sft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(sft, tmp_path / "deeper" / "out", capsys) == contents(sft / "final")


def test_the_last_checkpoint_is_the_result(sft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Byte by byte: the shards of both ranks put together are the weights that the run gathered and wrote."""
    last = max((sft / "checkpoints").glob("step_*"))
    assert export(last, tmp_path / "out", capsys) == model_of(sft / "final")


def test_a_run_without_a_result_gives_its_newest_whole_checkpoint(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = model_of(run / "final")
    shutil.rmtree(run / "final")
    assert export(run, tmp_path / "newest", capsys) == wanted

    earlier, newest = sorted((run / "checkpoints").glob("step_*"))[-2:]
    before = export(earlier, tmp_path / "earlier", capsys)
    torn = next(newest.rglob("states_1.safetensors"))
    torn.write_bytes(torn.read_bytes()[:-10])
    assert export(run, tmp_path / "fallback", capsys) == before
    assert before["model.safetensors"] != wanted["model.safetensors"]


def test_an_exported_model_loads_and_writes(sft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    last = max((sft / "checkpoints").glob("step_*"))
    export(last, tmp_path / "out", capsys)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    question = [{"role": "user", "content": "Where can I buy a lamp?"}]
    ids: Any = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        written = model.generate(**ids, max_new_tokens=5, do_sample=False)
    assert written.shape[1] > ids["input_ids"].shape[1]
    assert model.config.use_cache


def test_colleagues_may_read_it(sft: Path) -> None:
    """Weights have the mode that the umask gives to everything else."""
    modes = {path.name: path.stat().st_mode for path in (sft / "final").iterdir()}
    assert set(modes.values()) == {modes["config.json"]}


def test_a_finished_run_says_so(sft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in sft.rglob("*")}
    recipe = str(sft / "recipe.yaml")
    assert main(["train", recipe]) == 0
    assert capsys.readouterr().out == f"sft-tiny: already finished, the model is in {sft / 'final'}\n"
    assert main(["train", recipe, "--dry-run"]) == 0
    assert "already finished" in capsys.readouterr().out
    assert main(["train", recipe, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["finished_before"], told["model"]) == (True, str(sft / "final"))
    assert set(told["before_after"]["loss"]) == {"before", "after"}
    assert {path: path.stat().st_mtime_ns for path in sft.rglob("*")} == before


def test_a_quantized_export(sft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it costs is printed, and stands in the card; what no group fits is refused, and leaves nothing."""
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    assert main(["export", str(sft), str(out), "--quantize", "w8a16"]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    first, second = told.out.splitlines()
    assert first == f"exported to {out}"
    found = re.search(r"perplexity ([\d.]+) -> ([\d.]+), next tokens ([\d.e-]+) nats .* the same at ([\d.]+)%", second)
    assert found is not None, second
    before, after, divergence, agreement = map(float, found.groups())
    assert before == pytest.approx(after, rel=0.05)
    assert 0 < divergence < 0.01
    assert agreement > 90
    assert second in (out / CARD).read_text()
    assert sum_faults(out) == []
    assert (out / "model.safetensors").stat().st_size < (sft / "final" / "model.safetensors").stat().st_size
    AutoModelForCausalLM.from_pretrained(out)
    assert main(["export", str(max((sft / "checkpoints").glob("step_*"))), str(tmp_path / "same"), "--quantize",
                 "w8a16"]) == 0  # fmt: skip
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(["export", str(sft), str(tmp_path / "groups"), "--quantize", "w4a16"]) == 2
    assert "no whole number of groups of 128\n  --quantize w8a16" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if "groups" in path.name] == []
