"""The plan for eyes: which role sits where, memory by item, batch arithmetic. Plain text, any terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from distft.launch.memory import Item, at_rest, peak
from distft.launch.plan import GroupPlan, Plan

GIB = 2**30
MIB = 2**20


def draw(plan: Plan) -> str:
    """Several paragraphs: header, nodes, groups, batch, memory, verdict."""
    parts = [_header(plan), _nodes(plan), _groups(plan), _batch(plan), *_memory(plan), _verdict(plan)]
    return "\n\n".join(part for part in parts if part)


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
        turns = "  (taking turns)" if len(roles) > 1 else ""
        rows.append(f"{word} {span:<7} {' + '.join(roles)}{turns}")
    return tuple(rows) or ("empty",)


def _boxed(name: str, rows: Sequence[str]) -> list[str]:
    width = max(len(name) + 2, *(len(row) for row in rows)) + 2
    top = f"┌─ {name} " + "─" * (width - len(name) - 3) + "┐"
    return [top, *(f"│ {row:<{width - 2}} │" for row in rows), "└" + "─" * width + "┘"]


def _groups(plan: Plan) -> str:
    rows = [("group", "ranks", "on nodes", "threads", "CPUs", "GPUs", "parameters")]
    for group in plan.groups.values():
        parameters = plan.memory[group.role].parameters
        rows.append(
            (
                " + ".join(group.roles),
                str(group.num_ranks),
                _span(group),
                str(group.threads),
                f"{group.cpus_per_rank:g}",
                f"{group.gpus_per_rank:g}",
                f"{parameters / 1e6:,.1f} M" if parameters else "?",
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
    sequences = "" if batch.unit == "sequences" else f" = {_count(batch.sequences, 'sequence')}"
    lines = [
        f"{step}: {batch.units} {batch.unit}{sequences} of at most {batch.longest} tokens ({batch.tokens:,} in all)",
        f"Update: {_count(batch.optimizer_steps, 'optimizer step')} of at most "
        f"{_count(batch.sequences_per_rank, 'sequence')} on each of {_count(batch.ranks, 'rank')}, "
        f"in {_count(batch.micro_batches, 'micro-batch')} of up to {_count(batch.rows, 'row')}",
    ]
    if batch.generation_rounds:
        lines.append(f"Generation: {_count(batch.generation_rounds, 'batch')} on each rank of the policy")
    return "\n".join(lines)


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
    yield "\n".join(_table(rows))


def _label(item: Item) -> str:
    return f"{item.name}{', on the host' if item.place == 'host' else ''}"


def _sum(items: Sequence[Item], label: str) -> int:
    return sum(item.bytes for item in items if _label(item) == label)


def _verdict(plan: Plan) -> str:
    lines = [f"Note: {note}" for note in plan.notes]
    if plan.fits is None:
        lines.append("Whether it fits is not known.")
    elif plan.fits:
        lines.append("It fits.")
    else:
        lines.append("It does not fit." + (" What would:" if plan.remedies else ""))
        lines += [f"  {remedy.change}   ({remedy.cost})" for remedy in plan.remedies]
    return "\n".join(lines)


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
