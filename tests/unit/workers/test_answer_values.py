"""Value models of encoder-decoders say, learn and are kept as transformers' own modules would have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distft.common.errors import UserError
from distft.config.adapters.lora import Lora
from distft.config.models import Model
from distft.models.families.family import family_at, find_family
from tests.unit.engine.group import Group
from tests.unit.models.encoder_decoders import write_encoder_decoder
from tests.unit.workers import answer_value_side as side
from tests.unit.workers.family_side import rows
from tests.unit.workers.test_families import merged

CLOSE = 1e-5
slow = pytest.mark.slow
NAMES = ("flan-t5", "bart", "t5", "mt5", "umt5", "bart-untied")
CASES = [("flan-t5", 3), ("bart", 2), *(
    pytest.param(name, stage, marks=slow) for name in NAMES for stage in (0, 2, 3)
    if (name, stage) not in (("flan-t5", 3), ("bart", 2))
)]  # fmt: skip


def with_a_head(tmp_path: Path, name: str) -> str:
    """The model with a scalar head whose opinions differ, as it is published."""
    model = side.read(write_encoder_decoder(tmp_path / "seq2seq", name))
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.classification_head.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.5)
    model.save_pretrained(tmp_path / "start")
    for file in (tmp_path / "seq2seq").glob("*token*"):
        (tmp_path / "start" / file.name).write_bytes(file.read_bytes())
    return str(tmp_path / "start")


def largest(model: Any, found: dict[int, list[float]]) -> float:
    """The largest difference of a value to transformers'."""
    assert sorted(found) == list(range(len(rows())))
    with torch.no_grad():
        wanted = {sample: side.plain_values(model, *rows()[sample]) for sample in found}
    return max((wanted[sample] - torch.tensor(values)).abs().max().item() for sample, values in found.items())


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_a_value_models_life(groups: dict[int, Group], tmp_path: Path, name: str, stage: int) -> None:
    """Before every token and behind the last, on one rank and on two: what it says, what it learns, what is left."""
    folder = with_a_head(tmp_path, name)
    start, (losses, plain) = side.read(folder), side.plainly(folder)
    for ranks, group in groups.items():
        out = tmp_path / f"out-{ranks}"
        answers = group.call(side.value, folder, str(out), stage)
        assert largest(start, merged(answers, "before")) < CLOSE
        assert [step["loss"] for step in answers[0]["steps"]] == pytest.approx(losses, rel=1e-5)
        reopened, wanted = side.read(out), dict(plain.named_parameters())
        for key, tensor in reopened.named_parameters():
            torch.testing.assert_close(tensor, wanted.pop(key), rtol=1e-4, atol=0.02 * side.RATE, msg=key)
        assert not wanted
        assert largest(reopened, merged(answers, "after")) < CLOSE
        assert largest(start, merged(answers, "after")) > 100 * CLOSE
        assert all(answer["same"] for answer in answers)


@slow
def test_the_policy_is_a_start_and_the_head_is_new(groups: dict[int, Group], tmp_path: Path) -> None:
    """A head of its own stays out; with adapters the new one is trained whole; the same on any layout."""
    folder, found = write_encoder_decoder(tmp_path / "start", "flan-t5"), []
    for ranks, group in groups.items():
        out = tmp_path / f"out-{ranks}"
        answers = group.call(side.value, folder, str(out), 3, Lora(r=4))
        assert largest(side.read(out), merged(answers, "after")) < CLOSE
        assert all(answer["same"] for answer in answers)
        found.append(merged(answers, "before"))
    assert all(found[0][sample] == pytest.approx(found[1][sample], abs=CLOSE) for sample in found[0])
    said = torch.tensor([value for values in found[0].values() for value in values])
    assert said.std() > 1e-3
    start, reopened = side.read(folder), side.read(tmp_path / "out-2")
    torch.testing.assert_close(reopened.transformer.shared.weight, start.transformer.shared.weight, rtol=0, atol=0)


def test_what_is_none_is_refused_by_name(tmp_path: Path) -> None:
    pegasus, t5 = (write_encoder_decoder(tmp_path / name, name) for name in ("pegasus", "t5"))
    family = find_family(family_at("scalar", t5, Model(path=t5)))
    with pytest.raises(UserError, match=r"no scalar head for pegasus.*\n.*bart, mt5, t5, umt5 have one"):
        family.load(pegasus, Model(path=pegasus), dropout=False, new_head=True)
    with pytest.raises(UserError, match="has no scalar head"):
        family.load(t5, Model(path=t5), dropout=False)
