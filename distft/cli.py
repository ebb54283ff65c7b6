"""The verbs. Nothing heavy is imported before a verb needs it: ``distft --help`` must answer at once."""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from distft.arguments import parse, parsers
from distft.common.errors import DistftError, EnvironmentFallsShort, UserError

if TYPE_CHECKING:
    from distft.launch.prepare import Prepared

INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell counts the signals INT and PIPE
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_NO_NAME = {errno.ENAMETOOLONG: "the name is too long for a file", errno.ELOOP: "links lead round in a circle"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit status: 0 done, 1 a failed run or a defect, 2 wrong input, 3 the machine
    falls short, 75 stopped on request, 130 interrupted from the keyboard, 141 nobody read the output to its end.
    """
    try:
        try:
            status = _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)
    except DistftError as error:
        return _told(error)
    except KeyboardInterrupt:
        print("distft: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            return CLOSED_PIPE
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            return _told(EnvironmentFallsShort(f"the disk is full: {error}", hint="free some space and run it again"))
        if isinstance(error, OSError) and error.errno in _NO_NAME:
            return _told(UserError(_NO_NAME[error.errno], where=_short(error.filename), hint="give another path"))
        return _defect(error)
    return status


def _run(arguments: Sequence[str]) -> int:
    parsed = parse(arguments)
    if "verb" not in parsed:
        parsers()[0].print_help()
        return 0
    return VERBS[parsed.verb](parsed) or 0


def _told(error: DistftError) -> int:
    print(f"distft: {error}", file=sys.stderr)
    return error.exit_status


def _short(path: object) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _defect(error: Exception) -> int:
    """What nobody foresaw. A run's log has the traceback and the error says so by a note; else it is shown here."""
    notes: list[str] = getattr(error, "__notes__", [])
    if not notes:
        traceback.print_exc()
    print(f"distft: a defect: {type(error).__name__}: {error}", *notes, sep="\n  ", file=sys.stderr)
    return 1


def _output_is_closed() -> bool:
    """Whether the reader of standard output has gone; then what Python would still write there goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError):  # no file: replaced in this process
        return False
    poll = select.poll()
    poll.register(output, 0)
    closed = any(event & select.POLLERR for _, event in poll.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return closed


# ---- the verbs


def _quickstart(arguments: argparse.Namespace) -> None:
    from distft.launch.quickstart import quickstart

    quickstart(arguments.output, arguments.cluster)


def _train(arguments: argparse.Namespace) -> int | None:
    from distft.config.load import load_recipe
    from distft.launch.prepare import prepare

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    prepared = prepare(recipe, arguments.cluster, dry_run=arguments.dry_run)
    name, run_dir = prepared.recipe.name, prepared.run_dir
    _warn(prepared.warnings)
    if arguments.dry_run:
        found = _rehearsed(prepared)
        state = "already finished" if prepared.finished else "ready to start"
        answer = {"name": name, "run_dir": str(run_dir), "state": state, "warnings": [*prepared.warnings, *found]}
        print(json.dumps(answer) if arguments.json else f"{name}: {state} ({run_dir})")
        return 0
    if prepared.cluster.kind == "slurm" and not prepared.finished and not os.environ.get("RAY_ADDRESS"):
        from distft.launch.slurm.submission import train_in_allocation

        return train_in_allocation(prepared.recipe, arguments.recipe, arguments.overrides, arguments.cluster)
    from distft.launch.run import run
    from distft.launch.table import before_after

    outcome = run(prepared, quiet=arguments.quiet or arguments.json)
    if arguments.json:
        print(json.dumps(outcome.summary()))
    elif outcome.finished_before:
        print(f"{name}: already finished, the model is in {outcome.final}")
    else:
        if outcome.table:
            print(f"{before_after({name: outcome.table})}\n({outcome.judged_on})")
        print(f"{name}: done, the model is in {outcome.final}")
    return 0


def _rehearsed(prepared: Prepared) -> tuple[str, ...]:
    """What the run would still warn of; nothing of a finished one."""
    if prepared.finished:
        return ()
    from distft.launch.rehearsal import rehearse

    found = rehearse(prepared)
    _warn(found)
    return found


def _warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"distft: warning: {warning}", file=sys.stderr)


def _plan(arguments: argparse.Namespace) -> None:
    from distft.config.load import load_recipe
    from distft.launch.preflight.checks import check_memory
    from distft.launch.prepare import planned
    from distft.planning.drawing import draw

    plan = planned(load_recipe(arguments.recipe, arguments.overrides), arguments.cluster, nodes=arguments.nodes)
    print(plan.model_dump_json(indent=1) if arguments.json else draw(plan))
    check_memory(plan, must_know=arguments.must_fit)


def _export(arguments: argparse.Namespace) -> None:
    from distft.launch.export import export

    print(f"exported to {export(arguments.source, arguments.target)}")


def _recipes(arguments: argparse.Namespace) -> None:
    from distft.config.load import shipped_recipes

    found = shipped_recipes()
    if arguments.json:
        print(json.dumps([{"name": name, "description": text} for name, text in found]))
        return
    width = max(len(name) for name, _ in found)
    for name, text in found:
        print(f"{name:<{width}}  {text}")


def _submit(arguments: argparse.Namespace) -> int:
    from distft.launch.submitting import submit

    return submit(arguments)


def _status(arguments: argparse.Namespace) -> None:
    from distft.launch.jobs.status import show, status_of

    status = status_of(arguments.run_dir.absolute())
    if arguments.json:
        print(json.dumps(status.as_json()))
    else:
        show(status)


def _logs(arguments: argparse.Namespace) -> int:
    from distft.launch.jobs.logs import Selection, follow_logs, show_logs

    rank = arguments.rank
    if rank != "all" and not rank.isdecimal():
        raise UserError("must be a number or `all`", where=f"--rank {rank}")
    if arguments.lines < 0:
        raise UserError("must be at least 0", where=f"-n {arguments.lines}")
    selection = Selection(arguments.role, None if rank == "all" else int(rank))
    run_dir = arguments.run_dir.absolute()
    if arguments.follow:
        return follow_logs(run_dir, selection, arguments.lines)
    show_logs(run_dir, selection, arguments.lines)
    return 0


def _cancel(arguments: argparse.Namespace) -> None:
    from distft.launch.jobs.cancel import cancel

    print(cancel(arguments.run_dir.absolute(), now=arguments.now))


def _doctor(arguments: argparse.Namespace) -> int:
    from distft.doctor.examine import examine

    report = examine(arguments.cluster, recipe_name=arguments.planned, folder=arguments.folder)
    print(json.dumps(report.as_json()) if arguments.json else "\n".join(report.lines()))
    return EnvironmentFallsShort.exit_status if report.wrong else 0


VERBS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "quickstart": _quickstart,
    "train": _train,
    "plan": _plan,
    "export": _export,
    "recipes": _recipes,
    "submit": _submit,
    "status": _status,
    "logs": _logs,
    "cancel": _cancel,
    "doctor": _doctor,
}


def run_main() -> NoReturn:
    """The console script."""
    sys.exit(main())


if __name__ == "__main__":
    run_main()
