"""Nobody but the families asks which family a model is of: another one is a file and a line in their table."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args

import pytest

from distft.config.role_table import Role
from distft.models.families.family import find_family
from distft.models.families.table import FAMILIES, FamilyName, family_of


def test_no_other_file_names_one(root: Path) -> None:
    own = root / "distft/models/families"
    naming = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in (root / "distft").rglob("*.py")
        if own not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in FAMILIES
    ]
    assert naming == []


@pytest.mark.parametrize("name", get_args(FamilyName))
def test_a_family_is_where_the_table_says(name: FamilyName) -> None:
    entry, family = FAMILIES[name], find_family(name)
    assert type(family).__module__ == f"distft.models.families.{name}" == entry.implementation.partition(":")[0]


def test_every_role_has_one() -> None:
    configs: list[dict[str, object]] = [{}, {"is_encoder_decoder": True}, {"model_type": "bert"}]
    found = {family_of(role, config).name for role in get_args(Role) for config in configs}
    found.add(family_of("policy", embeds=True).name)
    assert found == set(get_args(FamilyName))
