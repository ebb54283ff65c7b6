"""What a method costs: its section, its losses, its credit, its recipe; nothing else knows its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distft.config.find_method import traits_of

# Method -> the most files under distft/ that it may be spread over.
ALLOWED = {
    "orpo": 3, "simpo": 3, "grpo": 4, "rloo": 4, "reinforce_pp": 4, "dapo": 3, "gspo": 3, "cispo": 3, "cpo": 3,
    "kto": 3, "distill": 3, "online_dpo": 4, "raft": 4, "process_reward": 3,
}  # fmt: skip
# Recipes that need some method: what they show is none, or one key of it.
SHOWING_SOMETHING_ELSE = {"tools-tiny.yaml", "gkd-tiny.yaml", "llama3-qlora-orpo.yaml", "gsm8k-grpo.yaml"}


def files_of(root: Path, kind: str) -> set[Path]:
    """The method's own files: its section's, those that its traits name, and its recipes."""
    traits = traits_of(kind)
    addresses = [loss.address for loss in traits.losses.values()] + ([traits.credit] if traits.credit else [])
    modules = [f"distft.config.algorithms.{kind}", *(address.partition(":")[0] for address in addresses)]
    named = {root / f"{module.replace('.', '/')}.py" for module in modules}
    return named | set((root / "distft/recipes").glob(f"{kind.replace('_', '-')}-*.yaml"))


@pytest.mark.parametrize(("kind", "most"), ALLOWED.items())
def test_a_method_is_a_few_files_and_no_other_names_it(root: Path, kind: str, most: int) -> None:
    own = files_of(root, kind)
    assert all(path.is_file() for path in own)
    assert len(own) <= most
    # A recipe may name another that goes on from it, and a model's name may have the word between its dashes.
    word = re.compile(rf"(?<![\w-]){kind}\b(?!-tiny)", re.IGNORECASE)
    found = [path for end in ("py", "yaml") for path in (root / "distft").rglob(f"*.{end}")]
    sources = [path for path in found if path.name not in SHOWING_SOMETHING_ELSE]
    naming = {path for path in sources if word.search(path.read_text(encoding="utf-8"))}
    assert root / f"distft/config/algorithms/{kind}.py" in naming
    assert naming - own == set()
