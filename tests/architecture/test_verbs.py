"""Who may ask a group for what: only the clients, where a verb has its types."""

from __future__ import annotations

import ast
from pathlib import Path

DECLARED = {"ModelVerbs", "GeneratorVerbs", "DataVerbs"}
MAY_ASK = {"clients", "groups"}  # groups ask their workers to sleep, to wake and to close


def asking(path: Path) -> list[int]:
    """The lines that ask a group by hand, or name what verbs are declared by."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "call":
            owner = node.func.value
            if not (isinstance(owner, ast.Name) and owner.id == "subprocess"):
                found.append(node.lineno)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in DECLARED:
            found.append(node.lineno)
    return found


def test_only_the_clients_ask_groups(root: Path) -> None:
    for path in (root / "distft").rglob("*.py"):
        if path.relative_to(root / "distft").parts[0] not in MAY_ASK:
            assert asking(path) == [], f"{path.relative_to(root)} asks a group for a verb: a client's method does that"
    assert asking(root / "distft/clients/model_group.py"), "what is looked for is still what clients write"
