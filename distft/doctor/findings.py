"""What a check has found, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``nodes``: where, empty for all of them; ``do``: what the user can do."""

    check: str
    state: State
    found: str
    do: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All findings about a cluster."""

    cluster: str
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What would end a run."""
        return tuple(finding for finding in self.findings if finding.state == "wrong")

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        found = [asdict(finding) for finding in self.findings]
        return {"format": 1, "cluster": self.cluster, "ok": not self.wrong, "findings": found}

    def lines(self) -> list[str]:
        """For people: one line a check, and one more where there is something to do."""
        width = max((len(finding.check) for finding in self.findings), default=0)
        lines = []
        for finding in self.findings:
            where = f"{named(finding.nodes)}: " if finding.nodes else ""
            lines.append(f"{finding.state:<8} {finding.check:<{width}}  {where}{finding.found}")
            if finding.do:
                lines.append(f"{'':<8} {'':<{width}}  -> {finding.do}")
        return lines


def named(nodes: Sequence[str], limit: int = 6) -> str:
    """The nodes' names, the first few of many."""
    more = f" and {len(nodes) - limit} more" if len(nodes) > limit else ""
    return ", ".join(nodes[:limit]) + more
