"""The verdict in a sentence, and what was trained on what in another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from distft.evaluation.bootstrap import LEVEL
from distft.evaluation.intervals import change_of_means, change_of_shares
from distft.report.run_data import RunData, part
from distft.tracking.glossary import KNOWN, better, known
from distft.tracking.progress import duration

# The metric that decides, by the first of these that the run has.
HEADLINES = ("objective/score", "accuracy", "rewards/accuracies", "rewards/margins", "mrr", "nll_loss", "loss")
_SHARES = ("accuracy", "rewards/accuracies")  # of rows
_PRECISION = 0.005  # of the value before: a smaller change says nothing
_CHANCE = "may be chance"


class Change(NamedTuple):
    """A held-out metric; ``interval``: of the change, at ``LEVEL``, None where nothing says how far chance moves it;
    ``word``: better, worse, the same, may be chance, or empty where a change is neither."""

    name: str
    title: str
    before: float
    after: float
    interval: tuple[float, float] | None
    word: str

    @property
    def sure(self) -> str:
        """``word`` where chance alone does not explain it, else empty."""
        return self.word if self.interval and self.word in ("better", "worse") else ""


def changes(run: RunData) -> list[Change]:
    """The before/after table, with what each change means."""
    found = []
    for name, (before, after) in run.table.items():
        about, interval = known(name), _interval(run, name)
        word = _word(name, before, after, interval)
        found.append(Change(name, about.title if about else "", before, after, interval, word))
    return found


def headline(run: RunData) -> Change | None:
    """The one that decides."""
    found = {change.name: change for change in changes(run)}
    return next((found[name] for name in HEADLINES if name in found), None)


def verdict(run: RunData) -> str:
    """How it ended and whether it helped; honest where that is not known."""
    ended, change = _ended(run), headline(run)
    if change is None:
        return f"{ended} {_last_seen(run)}".strip()
    title = (change.title or change.name).lower().removesuffix(", held out")
    moved = f"{title} went from {number(change.before)} to {number(change.after)} on {rows_judged(run)}"
    if change.interval:
        low, high = change.interval
        moved += f" (interval of the change, {LEVEL:.0%}: {signed(low)} to {signed(high)})"
    said = {
        "better": f"It helped: {moved}" if change.sure else f"{moved[0].upper()}{moved[1:]}, which is better",
        "worse": f"It got worse: {moved}" if change.sure else f"{moved[0].upper()}{moved[1:]}, which is worse",
        _CHANCE: f"Chance is not ruled out: {moved}",
    }
    return f"{ended} {said.get(change.word, f'It made no difference to speak of: {moved}')}."


def trained(run: RunData) -> str:
    """``PPO of runs/sft (parameters: 45,728), trained on builtin:dialogues on local.``"""
    if not run.recipe:
        return ""
    name = next(iter(run.plan.memory), "") if run.plan else ""
    role = "policy" if part(run.recipe, "models").get("policy") else name
    memory = run.plan.memory.get(role) if run.plan else None
    model = part(part(run.recipe, "models"), role)
    what = str(model.get("path") or "") or "a model from random weights"
    parameters = f" (parameters: {memory.counted})" if memory and memory.parameters else ""
    where = f" on {run.plan.cluster}" if run.plan else ""
    return f"{run.kind.upper()} of {what}{parameters}, trained on {', '.join(sources(run, 'train')) or '?'}{where}."


def sources(run: RunData, split: str) -> list[str]:
    """The paths of a split's data, as the recipe names them."""
    listed = part(run.recipe, "data").get(split)
    return [str(one.get("path")) for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def number(value: float) -> str:
    """Four figures."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def signed(value: float) -> str:
    """Four figures, with a sign."""
    return f"{'+' if value >= 0 else ''}{number(value)}"


def _ended(run: RunData) -> str:
    status = run.status
    of = f" of {status.total_steps:,}" if status.total_steps and status.total_steps != status.step else ""
    steps = f"{status.step:,}{of} {'step' if status.step == 1 and not of else 'steps'}"
    words = {
        "done": f"Finished {steps}", "failed": f"Failed after {steps}", "stopped": f"Stopped after {steps}",
        "lost": f"Ended without a word after {steps}",
    }  # fmt: skip
    took = sum(one.ended - one.started for one in status.attempts if one.ended)
    said = words.get(status.state, f"Not over: {steps} so far")
    return f"{said} in {duration(took)}." if took else f"{said}."


def _last_seen(run: RunData) -> str:
    """Without a table: how far the training's own metric moved, which is no proof."""
    for name in ("objective/scores", *HEADLINES):
        curve = run.ledger.of("train").get(name)
        if curve is not None and len(curve.finite) > 1:
            title, seen = (KNOWN[name].title.lower() if name in KNOWN else name), curve.finite
            moved = f"from {number(seen[0])} to {number(seen[-1])}"
            return f"In training the {title} went {moved}; held-out rows have not been judged."
    return "Nothing says yet whether it helped."


def _interval(run: RunData, name: str) -> tuple[float, float] | None:
    """Of several answers to a prompt the rows count, not the answers: these say less than as many prompts would."""
    (before, after), rows = run.table[name], run.before_after.get("rows")
    if not isinstance(rows, int):
        return None
    if name in _SHARES:
        return change_of_shares(before, after, rows)
    deviations = run.table.get(f"{name}_std")
    return change_of_means(after - before, deviations, rows) if deviations else None


def _word(name: str, before: float, after: float, interval: tuple[float, float] | None) -> str:
    wanted = better(name)
    if not wanted:
        return ""
    if abs(after - before) <= _PRECISION * abs(before):
        return "the same"
    if interval and interval[0] <= 0 <= interval[1]:
        return _CHANCE
    return "better" if (after > before) == (wanted == "up") else "worse"


def rows_judged(run: RunData) -> str:
    return " ".join(_row_words(run)) or "held-out rows"


def _row_words(run: RunData) -> Iterator[str]:
    rows, of, split = (run.before_after.get(key) for key in ("rows", "rows_in_all", "split"))
    if isinstance(rows, int):
        yield f"{rows:,} of {of:,}" if isinstance(of, int) and of != rows else f"{rows:,}"
        yield f"{split} rows" if split else "held-out rows"
