"""The plan for eyes: which role sits where, memory by item, batch arithmetic, time. Plain text, any terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import TextWrapper

from distft.config.engines import ENGINES
from distft.planning.batch_arithmetic import BatchArithmetic
from distft.planning.eval_stages import EvalPlan
from distft.planning.memory import Item, at_rest, peak
from distft.planning.plan import GroupPlan, Plan

GIB = 2**30
MIB = 2**20
WIDTH = 118


def draw(plan: Plan | EvalPlan) -> str:
    """Several paragraphs: header, nodes, groups, batch, memory, time, verdict; of an evaluation two lines."""
    if isinstance(plan, EvalPlan):
        return _evaluation(plan)
    parts = [_header(plan), _nodes(plan), _groups(plan), _batch(plan), *_memory(plan), _time(plan), _verdict(plan)]
    return "\n\n".join(part for part in parts if part)


def _evaluation(plan: EvalPlan) -> str:
    size = "size unknown" if plan.weights is None else f"{_bytes(plan.weights)} of weights"
    of = f" of {', '.join(plan.after)}" if plan.after else ""
    return (
        f"{plan.name} (eval) on {plan.cluster}: one process on one node, one model at a time; the largest{of}: "
        f"{size}\n  {plan.command}"
    )


def _header(plan: Plan) -> str:
    hardware = plan.hardware
    each = f"{hardware.gpus} GPUs, " if hardware.gpus else ""
    nodes = _count(hardware.nodes, "node")
    return (
        f"{plan.recipe} ({plan.algorithm}) on {plan.cluster}: {nodes} of {each}{hardware.cpus} CPUs, "
        f"{hardware.memory / GIB:.0f} GiB; {plan.nodes_used} used"
    )


def _nodes(plan: Plan) -> str:
    """A box a node; neighbours that hold the same are drawn once."""
    seats: list[dict[int, list[str]]] = [{} for _ in range(plan.hardware.nodes)]
    for group in plan.groups.values():
        for rank in group.ranks:
            seats[rank.node].setdefault(rank.slot, []).append(f"{group.role}")
    lines = []
    for rows, same in groupby(enumerate(seats), key=lambda numbered: _rows(numbered[1], plan)):
        numbers = [number for number, _ in same]
        name = f"node {numbers[0]}" if len(numbers) == 1 else f"nodes {numbers[0]} to {numbers[-1]}, each"
        lines += _boxed(name, rows)
    return "\n".join(lines)


def _rows(slots: dict[int, list[str]], plan: Plan) -> tuple[str, ...]:
    """One line for each run of slots that hold the same roles."""
    word = "GPU" if plan.hardware.gpus else "slot"
    rows = []
    for roles, same in groupby(sorted(slots), key=lambda slot: tuple(slots[slot])):
        numbers = list(same)
        span = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        turns = f"  ({_together(plan, roles)})" if len(roles) > 1 else ""
        rows.append(f"{word} {span:<7} {' + '.join(roles)}{turns}")
    return tuple(rows) or ("empty",)


def _together(plan: Plan, groups: Sequence[str]) -> str:
    """How groups on the same devices share them."""
    return "taking turns" if any(plan.turns[group].asleep for group in groups) else "awake together"


def _boxed(name: str, rows: Sequence[str]) -> list[str]:
    width = max(len(name) + 2, *(len(row) for row in rows)) + 2
    top = f"┌─ {name} " + "─" * (width - len(name) - 3) + "┐"
    return [top, *(f"│ {row:<{width - 2}} │" for row in rows), "└" + "─" * width + "┘"]


def _groups(plan: Plan) -> str:
    rows = [("group", "ranks", "on nodes", "threads", "CPUs", "GPUs", "parameters")]
    for group in plan.groups.values():
        memory = plan.memory[group.role]
        rows.append(
            (
                " + ".join(group.roles),
                str(group.num_ranks),
                _span(group),
                str(group.threads),
                f"{group.cpus_per_rank:g}",
                f"{group.gpus_per_rank:g}",
                memory.counted if memory.parameters else "?",
            )
        )
    return "\n".join(_table(rows))


def _span(group: GroupPlan) -> str:
    nodes = sorted(set(group.node_of_rank))
    whole = len(nodes) > 2 and nodes == list(range(nodes[0], nodes[-1] + 1))
    return f"{nodes[0]}-{nodes[-1]}" if whole else ", ".join(map(str, nodes))


def _batch(plan: Plan) -> str:
    batch = plan.batch
    step = "An iteration" if batch.generation_rounds else "A step"
    sequences = "" if batch.unit in ("sequences", "answers") else f" = {_count(batch.sequences, 'sequence')}"
    lines = [
        f"{step}: {batch.units} {batch.unit}{sequences} of at most {batch.longest} tokens ({batch.tokens:,} in all)",
        f"Update: {_count(batch.optimizer_steps, 'optimizer step')} of at most "
        f"{_count(batch.sequences_per_rank, 'sequence')} on each of {_rows_alone(batch)}, "
        f"in {_count(batch.micro_batches, 'micro-batch')} of up to {_held(batch)}",
    ]
    if batch.generation_rounds:
        lines.append(_generation(plan))
    if batch.judge_questions:
        lines.append(f"Scores: at most {_count(batch.judge_questions, 'question')} to judges")
    return "\n".join(lines)


def _held(batch: BatchArithmetic) -> str:
    """What a micro-batch holds of the longest sequences."""
    if not batch.packed:
        return _count(batch.rows, "row")
    return f"{_count(batch.rows, 'sequence')} of that length, or more of shorter ones, packed in one row"


def _rows_alone(batch: BatchArithmetic) -> str:
    """Who has rows of its own."""
    if batch.shared_by == 1:
        return _count(batch.ranks, "rank")
    return f"{_count(batch.ranks // batch.shared_by, 'group')} of {batch.shared_by} ranks that share them"


def _generation(plan: Plan) -> str:
    generation = plan.generation
    if generation is None or generation.settings is None:
        why = f" (hf: {generation.why})" if generation and generation.why else ""
        return f"Generation: {_count(plan.batch.generation_rounds, 'batch')} on each rank of the policy{why}"
    why = f" ({generation.why})" if generation.why else ""
    return (
        f"Generation: {_count(plan.groups[ENGINES].num_ranks, 'vLLM engine')}, "
        f"{_count(generation.settings.max_sequences, 'sequence')} at once in each{why}"
    )


def _count(number: int, word: str) -> str:
    plural = f"{word}es" if word.endswith("ch") else f"{word}s"
    return f"{number} {word if number == 1 else plural}"


def _memory(plan: Plan) -> Iterator[str]:
    """Items of one rank by role, then the fullest devices and nodes."""
    known = {role: memory for role, memory in plan.memory.items() if not memory.unknown}
    if known:
        names = list(dict.fromkeys(_label(item) for memory in known.values() for item in memory.items))
        rows = [("memory of one rank", *known)]
        for name in names:
            rows.append((name, *(_bytes(_sum(memory.items, name)) for memory in known.values())))
        rows.append(("at rest", *(_bytes(at_rest(memory.items, "device")) for memory in known.values())))
        rows.append(("peak", *(_bytes(peak(memory.items, "device")) for memory in known.values())))
        yield "\n".join(_table(rows))
    rows = [("fullest", "needs", "has", "")]
    for load in plan.loads:
        share = f"{load.bytes / load.capacity:.0%}" if load.capacity else "?"
        rows.append((load.where, _bytes(load.bytes), _bytes(load.capacity) if load.capacity else "?", share))
    yield "\n".join([*_table(rows), *_fullest_node(plan)])


def _fullest_node(plan: Plan) -> Iterator[str]:
    """Who needs the memory of the fullest node, one part a line."""
    node = next((load for load in plan.loads if load.kind == "node"), None)
    if node is not None and plan.hardware.gpus:
        parts = ", ".join(f"{name} {_bytes(size)}" for name, size in node.parts)
        yield from _wrapped(f"of which on {node.where}: {parts}", "  ")


def _time(plan: Plan) -> str:
    """Seconds of each role in each phase, and what a step waits for."""
    word = "iteration" if plan.batch.generation_rounds else "step"
    if plan.estimate is None:
        return f"Time of {'an' if word == 'iteration' else 'a'} {word}: unknown, {plan.estimate_unknown}"
    rows = [("phase", "of role", "seconds", "bound by")]
    for phase in plan.estimate.phases:
        for time in phase.roles:
            role = f"{time.role} ({time.work})"
            rows.append((phase.name, role, f"{time.seconds:,.2f}", time.bound_by))
    rows.append((f"whole {word}", "", f"{plan.estimate.seconds:,.2f}", ""))
    table = _table(rows)
    said = (
        f"Estimated, every sequence at its longest: {plan.estimate.seconds:,.1f} s, "
        f"{plan.estimate.tokens_per_second:,.0f} tokens/s ({plan.estimate.certainty}). "
        f"It waits for {plan.estimate.bottleneck}."
    )
    return "\n".join([*table, *_wrapped(said)])


def _label(item: Item) -> str:
    return f"{item.name}{', on the host' if item.place == 'host' else ''}"


def _sum(items: Sequence[Item], label: str) -> int:
    return sum(item.bytes for item in items if _label(item) == label)


def _verdict(plan: Plan) -> str:
    lines = [f"Note: {note}" for note in plan.notes]
    lines += [f"Tight: {load}" for load in plan.tight]
    if plan.fits is None:
        lines.append("Whether it fits is not known.")
    elif plan.fits:
        lines.append(f"It fits{_smallest(plan)}.")
    else:
        lines.append(f"It does not fit{_smallest(plan)}." + (" What would:" if plan.remedies else ""))
        for remedy in plan.remedies:
            seconds = "" if remedy.seconds is None else f"; {remedy.seconds:,.1f} s"
            lines += _wrapped(f"{remedy.change}   ({remedy.cost}{seconds})", "  ")
    return "\n".join(lines)


def _smallest(plan: Plan) -> str:
    """The fewest GPUs that would do, where that says something."""
    if plan.smallest is None:
        return "" if plan.fits or not plan.hardware.gpus else ", and on no number of these nodes"
    smallest = plan.smallest
    where = _count(smallest.nodes, "node")
    return f"; the fewest that it fits are {_count(smallest.total, 'GPU')} on {where}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Lines for a terminal; what a user copies (``key=value``) stays in one piece."""
    further = f"{indent}    " if indent else ""
    fill = TextWrapper(WIDTH, initial_indent=indent, subsequent_indent=further, break_long_words=False)
    fill.break_on_hyphens = False
    return fill.wrap(text)


def _bytes(number: int) -> str:
    if number == 0:
        return "-"
    return f"{number / GIB:,.1f} GiB" if number >= GIB else f"{number / MIB:,.1f} MiB"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns aligned: the first to the left, the others to the right; a line under the header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return [lines[0], "─" * max(len(line) for line in lines), *lines[1:]]
