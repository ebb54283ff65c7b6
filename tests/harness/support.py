"""The methods in distft/recipes/README.md, by their traits and the checks: ``python -m tests.harness.support``."""

from __future__ import annotations

from collections.abc import Sequence

from distft.config.data import ANCHORED, ANSWERED, CLASSIFIED, LABELLED, PAIRED, RANKED, TURNS
from distft.config.find_method import built_in_kinds, method_of
from distft.config.method import Method
from distft.config.sampled import Grouped
from distft.doctor.matrix import support_matrix

HEAD = ("`kind`", "method", "models (trained in bold)", "families of the trained", "learns from")
# What rows are called where a whole family of formats will do.
FAMILIES = {
    TURNS: "conversations",
    ANSWERED: "prompt + completion",
    LABELLED: "prompt + completion + label",
    PAIRED: "prompt + chosen + rejected",
    RANKED: "prompt + completions + ranks",
    CLASSIFIED: "text + label",
    ANCHORED: "anchor + positive (+ negatives)",
}


def support_table() -> list[str]:
    """The lines of the table, a row for each method of the house."""
    matrix = support_matrix(built_in_kinds())
    rows = [_row(kind, method_of(kind), matrix.families(kind)) for kind in built_in_kinds()]
    return [_line(HEAD), f"|{'---|' * len(HEAD)}", *(_line(row) for row in rows)]


def _row(kind: str, method: type[Method], families: Sequence[str]) -> list[str]:
    traits = method.traits
    models = ", ".join(f"**{role}**" if role in traits.trained else role for role in traits.roles)
    rows = f"{traits.unit.name}: {_formats(traits.formats)}"
    if traits.sampled:
        rows = "its own answers, several to a prompt" if issubclass(method, Grouped) else "its own answers to prompts"
    return [f"`{kind}`", method.model_fields["kind"].description or "", models, ", ".join(families), rows]


def _formats(formats: tuple[str, ...]) -> str:
    """Families by their names, other formats as they are."""
    named = {one: name for family, name in FAMILIES.items() if set(family) <= set(formats) for one in family}
    return ", ".join(dict.fromkeys(named.get(one, one) for one in formats))


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(support_table()))
