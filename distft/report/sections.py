"""The parts of a run's page below its curves, as plain rows for the template."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distft.planning.memory import peak
from distft.report.run_data import RunData, part
from distft.report.verdict import sources
from distft.tracking.metrics import RECIPE
from distft.tracking.progress import duration

MIB, GIB = 2**20, 2**30
_MAX_SAMPLES, _MAX_EVENTS, _MAX_TEXT = 12, 200, 4000
_ALARMS = (
    "alarm",
    "failure",
    "restart",
    "replaced",
    "rollback",
    "checkpoint_failed",
    "memory_copy_failed",
    "generator_differs",
)
_ALARM = ("name", "step", "said", "do")
_ROUTINE = ("start", "group_ready", "data_ready", "stop_tokens", "ready", "invariants", "reference_kept")
Rows = list[tuple[str, str]]


def pairs_of_samples(run: RunData) -> list[dict[str, Any]]:
    """What the policy said early and late: to the same prompt where it was asked twice, else next to each other."""
    lines = [one for one in run.samples if isinstance(one.get("step"), int) and isinstance(one.get("completion"), str)]
    if not lines:
        return []
    first_said: dict[str, Mapping[str, Any]] = {}
    latest: dict[str, Mapping[str, Any]] = {}
    for line in sorted(lines, key=lambda line: line.get("split") != "eval"):  # held-out prompts first
        asked = f"{line.get('side')} {line.get('prompt')}"
        first_said.setdefault(asked, line)
        latest[asked] = line
    again = [(one, latest[asked]) for asked, one in first_said.items()]
    same = [pair for pair in again if pair[0]["step"] < pair[1]["step"]][:_MAX_SAMPLES]
    if same:
        return [{"early": _sample(early), "late": _sample(late), "same": True} for early, late in same]
    first, last = min(line["step"] for line in lines), max(line["step"] for line in lines)
    early = [line for line in lines if line["step"] == first][:_MAX_SAMPLES]
    late = [line for line in lines if line["step"] == last][:_MAX_SAMPLES] if last > first else []
    return [
        {"early": _sample(early[i]) if i < len(early) else None, "late": _sample(late[i]) if i < len(late) else None,
         "same": False}
        for i in range(max(len(early), len(late)))
    ]  # fmt: skip


def cause(run: RunData) -> str:
    """What ended a run that is not done, and whose: role, rank and node; empty where nothing is known of it."""
    ended = run.status.exit or {}
    rank, node = ended.get("rank"), ended.get("node")
    who = str(ended.get("role") or "") + (f" rank {rank}" if rank is not None else "") + (f" on {node}" if node else "")
    said = str(ended.get("cause") or "")
    return f"{who.strip()}: {said}" if who.strip() and said else said


def time_by_phase(run: RunData) -> list[dict[str, Any]]:
    """Seconds of a step by phase, the mean over the steps, and each one's share; the largest first."""
    means = {
        name.removeprefix("timing/"): float(curve.finite.sum()) / max(1, len(run.ledger.of("train")["timing/step"].y))
        for name, curve in run.ledger.of("train").items()
        if name.startswith("timing/") and name.count("/") == 1 and "timing/step" in run.ledger.of("train")
    }
    whole = means.pop("step", 0.0)
    means.pop("idle_share", None)
    if whole <= 0:
        return []
    means["everything else"] = max(0.0, whole - sum(means.values()))
    ordered = sorted(means.items(), key=lambda one: -one[1])
    return [
        {"name": name.replace("_", " "), "seconds": seconds, "share": seconds / whole}
        for name, seconds in ordered
        if seconds / whole >= 0.0005
    ]


def start_up(run: RunData) -> str:
    """From the command to the first step, of the last attempt."""
    begun, ready = run.event("start"), run.event("ready")
    seconds = _seconds(ready) - _seconds(begun)
    if not begun or not ready or begun.get("attempt") != ready.get("attempt") or seconds < 0:
        return ""
    return f"Before the first step (workers, data, models): {duration(seconds)}."


def memory(run: RunData) -> list[dict[str, str]]:
    """Each role's memory of one rank: as planned, and the most that was measured."""
    seen = run.ledger.of("train")
    roles = list(run.plan.memory) if run.plan else []
    roles += [name.split("/")[1] for name in seen if name.startswith("memory/") and name.count("/") == 2]
    rows = []
    for role in dict.fromkeys(roles):
        planned = peak(run.plan.memory[role].items, "device") if run.plan and role in run.plan.memory else 0
        device = _most(run, f"memory/{role}/reserved_peak", f"memory/{role}/allocated_peak")
        process = _most(run, f"memory/{role}_rss_bytes", "memory/rss_bytes" if role == roles[0] else "")
        share = f"{device / planned:.0%}" if device and planned else ""
        rows.append({"role": role, "planned": size(planned), "device": size(device), "share": share,
                     "process": size(process)})  # fmt: skip
    return [row for row in rows if any(row[key] for key in ("planned", "device", "process"))]


def loads(run: RunData) -> list[dict[str, str]]:
    """The fullest devices and nodes by the plan."""
    return [
        {"where": load.where, "needs": size(load.bytes), "has": size(load.capacity),
         "share": f"{load.bytes / load.capacity:.0%}" if load.capacity else ""}
        for load in (run.plan.loads if run.plan else ())
    ]  # fmt: skip


def events(run: RunData) -> list[dict[str, Any]]:
    """What happened, but for the routine of a start, the newest where there are very many."""
    found = [one for one in run.events if one.get("event") not in _ROUTINE or one.get("attempt") != 1]
    return [
        {"time": moment(one.get("time")), "name": str(one.get("event")), "said": _said(one),
         "alarm": one.get("event") in _ALARMS}
        for one in found[-_MAX_EVENTS:]
    ]  # fmt: skip


def alarms(run: RunData) -> list[dict[str, Any]]:
    """The events that ask for a look."""
    return [one for one in events(run) if one["alarm"]]


def data_rows(run: RunData) -> Rows:
    """What was read of each split: its sources and the run's own statistics."""
    counted = {k: v for k, v in run.event("data_ready").items() if k not in ("format", "time", "event", "attempt")}
    splits = dict.fromkeys([*(name for name in ("train", "eval", "test") if sources(run, name)), *counted])
    return [
        (split, ": ".join(text for text in (", ".join(sources(run, split)), _plain(counted.get(split, ""))) if text))
        for split in splits
    ]


def environment_rows(run: RunData) -> Rows:
    """Machine, versions, commit, job."""
    found = run.environment
    commit = part(found, "commit")
    modified = " with local changes" if commit.get("modified") else ""
    rows: Rows = [
        ("machine", " ".join(str(found.get(key, "")) for key in ("hostname", "platform")).strip()),
        ("CPUs, memory", f"{found.get('cpus', '?')}, {size(_int(found.get('memory_bytes'))) or '?'}"),
        ("commit", f"{commit['id']}{modified}" if commit.get("id") else "unknown"),
        ("Python", str(found.get("python", "?"))),
        ("packages", ", ".join(f"{name} {version}" for name, version in part(found, "packages").items())),
        ("job", ", ".join(f"{name}={value}" for name, value in part(found, "job").items())),
    ]
    return [row for row in rows if row[1]] if found else []


def commands(run: RunData) -> str:
    """What does the run again, elsewhere; to be pasted into a shell."""
    if not run.recipe_text:
        return ""
    cluster = str(run.event("start").get("cluster") or "local")
    commit = part(run.environment, "commit").get("id")
    head = [f"git checkout {shlex.quote(str(commit))}   # in distft's checkout"] if commit else []
    words = [
        "distft", "train", str(run.run_dir / RECIPE), "--cluster", cluster, f"output_dir={run.run_dir}-again",
    ]  # fmt: skip
    return "\n".join([*head, shlex.join(words)])


def size(number: float) -> str:
    """Bytes for people; empty for none."""
    if not number:
        return ""
    return f"{number / GIB:,.1f} GiB" if number >= GIB else f"{number / MIB:,.1f} MiB"


def moment(seconds: Any) -> str:
    """A time of the ledgers on the clock of where the report is made; empty where it is none."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(seconds)))
    except (TypeError, ValueError, OverflowError, OSError):
        return ""


def _sample(line: Mapping[str, Any]) -> dict[str, Any]:
    score = line.get("score")
    return {
        "step": line["step"], "prompt": _cut(str(line.get("prompt", ""))), "completion": _cut(line["completion"]),
        "score": f"{score:.3g}" if isinstance(score, int | float) else "",
        "wanted": _cut(str(line.get("wanted") or "")), "side": str(line.get("side") or ""),
    }  # fmt: skip


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]} ... ({len(text) - _MAX_TEXT:,} characters more)"


def _said(event: Mapping[str, Any]) -> str:
    if event.get("event") == "alarm":
        return _cut("{name} at step {step}: {said}. What helps: {do}".format_map({**dict.fromkeys(_ALARM), **event}))
    hidden = ("format", "time", "event")
    told = {name: value for name, value in event.items() if name not in hidden and value not in (None, "", [], {})}
    return _cut("; ".join(f"{name} {_plain(value)}" for name, value in told.items()))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _most(run: RunData, *names: str) -> float:
    found = (float(curve.finite.max()) for curve in _curves(run, names) if len(curve.finite))
    return next(found, 0.0)


def _curves(run: RunData, names: Sequence[str]) -> Iterator[Any]:
    seen = run.ledger.of("train")
    return (seen[name] for name in names if name in seen)


def _seconds(event: Mapping[str, Any]) -> float:
    found = event.get("time")
    return float(found) if isinstance(found, int | float) else 0.0


def _int(value: Any) -> int:
    return value if isinstance(value, int) else 0
