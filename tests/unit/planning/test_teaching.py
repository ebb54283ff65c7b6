"""The plan counts what a teacher tells."""

from __future__ import annotations

import pytest

from distft.config.load import load_recipe
from distft.planning.footprint import Roles, SizeBook, role_memory

STEP, MICRO = 16 // 2 * 128, 1024  # tokens of a rank in a step, and in a micro-batch


@pytest.mark.parametrize(("top_k", "of_token"), [("32", 4 * 33 + 4 * 32), ("null", 4 * 768)])
@pytest.mark.parametrize("judged", [0, 8, 256])
def test_items(top_k: str, of_token: int, judged: int) -> None:
    held_out = (
        [f"evaluation.max_samples={judged}"] if judged else ["data.eval=[]", "data.test=[]", "evaluation.every=0"]
    )
    roles = Roles(load_recipe("distill-tiny", [f"algorithm.top_k={top_k}", *held_out]), SizeBook())
    most = max(STEP, judged // 2 * 128)  # tokens that a rank has told at once
    found = {
        role: {item.name: item for item in role_memory(roles, role, 2, gpu=True, shared=False).items}
        for role in ("policy", "teacher")
    }
    teacher, policy = found["teacher"], found["policy"]
    assert teacher["distributions of a step"].bytes == most * of_token
    assert teacher["distributions of the next step"].bytes == (STEP + most) * of_token
    assert teacher["distributions of a micro-batch"].bytes == MICRO * of_token
    assert policy["teacher's distributions"].bytes == most * of_token
    assert policy["teacher's distributions of a micro-batch"].bytes == MICRO * (
        of_token + (128 if top_k == "32" else 0)
    )
    assert policy["distributions compared"].bytes == 6 * 4 * MICRO * 768, "all of them: there are few"
    assert "head's gradient in float32" not in policy, "its own gradient is that already"
    places = {item.name: item.place for item in (*teacher.values(), *policy.values()) if "distributions" in item.name}
    assert {name for name, place in places.items() if place == "host"} == {
        "distributions of a step", "distributions of the next step", "teacher's distributions",
    }  # fmt: skip


def test_other_methods_have_none() -> None:
    items = role_memory(Roles(load_recipe("sft-tiny", []), SizeBook()), "policy", 2, gpu=True, shared=False).items
    assert not [item for item in items if "distributions" in item.name]
