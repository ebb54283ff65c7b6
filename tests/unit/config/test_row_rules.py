"""Packed rows by recipe: what has no row of its own to read, and who takes the key over from the policy."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.roles import model_of, roles

PACKED = "models.policy.engine.packed=true"


def test_vectors_of_texts_are_refused() -> None:
    with pytest.raises(UserError, match=r"models.policy.engine.packed .*: a text's vector is pooled from a row"):
        load_recipe("contrastive-tiny", [PACKED])


def test_what_begins_with_the_policy_is_packed_with_it(recipes: Callable[[str], str]) -> None:
    path = recipes("ppo")
    recipe = load_recipe(path, [PACKED])
    assert {role: model_of(recipe, role).engine.packed for role in roles(recipe)} == {
        "policy": True, "reference": True, "value": True, "reward": None,
    }  # fmt: skip
    own = load_recipe(path, [PACKED, "models.value.engine.packed=false"])
    assert not model_of(own, "value").engine.packed
