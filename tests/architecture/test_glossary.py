"""Every metric that is emitted is in the glossary, and every one of the glossary is emitted by somebody."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from distft.tracking.glossary import KNOWN, OTHERS, known
from tests.harness.glossary import glossary_table

ROOT = Path(__file__).resolve().parents[2]
EMITTERS = ("algorithms", "controller", "evaluation", "experience", "tracking/timing.py", "workers")
NAME = re.compile(r"[a-z][a-z0-9_]*(?:/(?:[a-z0-9_A-Z]+|\*)+)+")
# Texts of that shape that are no metrics of a run: sums that are divided before they are said, files of a checkpoint,
# and what only ``distft eval`` says.
NO_METRICS = {
    "num_tokens/chosen", "num_tokens/rejected", "num_answers/chosen", "num_answers/rejected", "logps/accuracies",
    "mean_logps/accuracies", "s/step",
}  # fmt: skip


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a file but the docstrings; what an f-string fills in is ``*``."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    within = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)  # type: ignore[misc]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | within:
            yield node.value


def emitted() -> dict[str, str]:
    """What looks like a metric's name in the packages that make metrics, and where."""
    found = {}
    for name in EMITTERS:
        place = ROOT / "distft" / name
        for path in [place] if place.suffix else place.rglob("*.py"):
            for text in texts(ast.parse(path.read_text(encoding="utf-8"))):
                if NAME.fullmatch(text) and text not in NO_METRICS and not text.startswith("*"):
                    found[text] = str(path.relative_to(ROOT))
    return found


EMITTED = emitted()


def test_the_search_finds_metrics() -> None:
    assert {"policy/approxkl_avg", "val/*", "timing/*", "rollout/response_length"} <= EMITTED.keys()


@pytest.mark.parametrize("name", sorted(EMITTED))
def test_what_is_emitted_is_known(name: str) -> None:
    fits = [one for one in (*KNOWN, *OTHERS) if fnmatchcase(one, name) or fnmatchcase(name, one)]
    assert known(name) or fits, f"{name}, in {EMITTED[name]}, is not in distft/tracking/glossary.py"


@pytest.mark.parametrize("name", [*KNOWN, *OTHERS])
def test_what_is_known_is_emitted(name: str) -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "distft").rglob("*.py")
                        if path.name not in ("glossary.py", "alarms.py", "progress.py"))  # fmt: skip
    last = name.rpartition("/")[2].strip("*").strip("_")
    there = f'"{name}"' in sources or any(fnmatchcase(name, one) for one in EMITTED) or f'"{last}"' in sources
    assert there or name in EMITTED or any(fnmatchcase(one, name) for one in EMITTED), "nobody emits it any more"


def test_the_glossary_in_the_documentation_is_this_one() -> None:
    lines, table = (ROOT / "distft" / "report" / "README.md").read_text(encoding="utf-8").splitlines(), glossary_table()
    start = lines.index(table[0])
    assert lines[start : start + len(table)] == table, "python -m tests.harness.glossary prints it"
    assert lines[start + len(table) :][:1] in ([], [""])
