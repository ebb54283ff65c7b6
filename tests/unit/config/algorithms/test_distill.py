"""What distillation asks of a recipe."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.method import Telling


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["algorithm.on_policy=0.5"], r"algorithm.on_policy.*0.5: the student's own answers are not sampled"),
        (["algorithm.beta=0.3"], r"algorithm.beta.*no effect on the divergence forward"),
        (["algorithm.divergence=js", "algorithm.beta=1.0"], r"algorithm.beta"),
        (["models.teacher=null"], r"models.teacher.*is missing: distill needs it"),
        (["models.teacher.init.vocab_size=700"], r"models.teacher.init.vocab_size.*the teacher reads the policy's"),
        (["models.teacher.peft.method=lora"], r"models.teacher.peft.*this model is frozen"),
        (["placement.teacher.share=policy"], r"placement.teacher.share.*no base that could be the teacher"),
        (["models.reference.path=x"], r"models.reference.*distill has no reference model"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("distill-tiny", keys)


def test_others_have_no_teacher() -> None:
    with pytest.raises(UserError, match="dpo has no teacher model"):
        load_recipe("dpo-tiny", ["models.teacher.path=x"])


def test_bytes_of_what_is_told() -> None:
    """A float32 for each outcome, an int32 for each name; never more names than tokens."""
    assert Telling(64, 1.0).bytes_of(128_256) == 4 * 65 + 4 * 64
    assert Telling(None, 1.0).bytes_of(128_256) == 4 * 128_256
    assert Telling(64, 1.0).bytes_of(10) == 4 * 11 + 4 * 10
