"""What somebody gets whose machine has one GPU: its driver is stood in for, no GPU is needed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from distft.cli import main
from distft.config.load import shipped_recipes
from distft.launch import prepare as module

GIB = 2**30
TINY = sorted(name for name, _ in shipped_recipes() if name.endswith("-tiny"))
README = Path(__file__).parents[3] / "README.md"


@pytest.fixture(autouse=True)
def one_h100(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A driver that shows one H100, and a torch that is built for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name, answer in {
        "nvmlInit": None, "nvmlShutdown": None, "nvmlDeviceGetCount": 1, "nvmlDeviceGetHandleByIndex": 0,
        "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3", "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80 * GIB),
    }.items():  # fmt: skip
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(module, "version", lambda _: "2.13.0+cu130")


@pytest.mark.parametrize("recipe", TINY)
def test_every_tiny_recipe_runs_on_it_as_it_is(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json"]) == 0, capsys.readouterr().err
    plan = json.loads(capsys.readouterr().out)
    assert plan["hardware"]["gpus"] == 1
    assert plan["fits"]


def test_the_recipe_of_the_readme_runs_on_it_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL)
    Path("my-dpo.yaml").write_text(shown.replace("path: run:runs/sft-tiny", "path: Qwen/Qwen2.5-0.5B-Instruct"))
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    Path("pairs.jsonl").write_text("".join(json.dumps(row | {"prompt": str(n)}) + "\n" for n in range(100)))
    assert main(["plan", "my-dpo.yaml", "models.policy.dtype=bfloat16"]) == 0
    said = capsys.readouterr().out
    assert "GPU 0       policy + reference  (awake together)" in said
    assert "rough, within 2x" in " ".join(said.split())


def test_a_dry_run_uses_it_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sft-tiny", "--dry-run"]) == 0
    assert "sft-tiny: ready to start" in capsys.readouterr().out


def test_a_torch_that_cannot_use_it_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "version", lambda _: "2.13.0+cpu")
    assert main(["train", "sft-tiny", "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert "a GPU is here, and the installed torch (2.13.0+cpu) is built for CPUs alone" in said
    assert "CUDA_VISIBLE_DEVICES= before the command" in said
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the remedy works
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", _unknown)
    assert main(["train", "sft-tiny", "--dry-run"]) == 0


def _unknown(_: str) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
