"""The glossary in distft/report/README.md, made of what the house knows: ``python -m tests.harness.glossary``."""

from __future__ import annotations

from distft.tracking.glossary import KNOWN, OTHERS

HEAD = ("metric", "what it is", "how to read it")


def glossary_table() -> list[str]:
    """The lines of the table."""
    rows = [(f"`{name}`", one.title, one.about) for name, one in {**KNOWN, **OTHERS}.items()]
    return [_line(HEAD), f"|{'---|' * len(HEAD)}", *map(_line, rows)]


def _line(cells: tuple[str, str, str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print("\n".join(glossary_table()))
