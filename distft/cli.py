"""The program: runs a verb, and says by its exit status and in one message how that ended."""

from __future__ import annotations

import errno
import io
import json
import os
import select
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from distft.arguments import parse, parsers
from distft.common.errors import DistftError, EnvironmentFallsShort, UserError, harmless

INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell counts the signals INT and PIPE
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_NAME = {errno.ENAMETOOLONG: "the name is too long for a file", errno.ELOOP: "links lead round in a circle"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a verb and returns its exit status: 0 done, 1 a failed run or a defect, 2 wrong input, 3 the machine
    falls short, 75 stopped on request, 130 interrupted from the keyboard, 141 nobody read the output to its end.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            status = _run(words)
        finally:
            sys.stdout.flush()
    except SystemExit as end:  # --help, --version
        return int(end.code or 0)
    except DistftError as error:
        return _told(error, as_json="--json" in words)
    except KeyboardInterrupt:
        print("distft: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            return CLOSED_PIPE
        if isinstance(error, OSError) and error.errno in _FULL_DISK:
            return _told(EnvironmentFallsShort(f"the disk is full: {error}", hint="free some space and run it again"))
        if isinstance(error, OSError) and error.errno in _REFUSED and error.filename is not None:
            what = f"{_short(error.filename)}: {str(error.strerror).lower()}"
            return _told(EnvironmentFallsShort(what, hint="give a place that this user may read and write"))
        if isinstance(error, OSError) and error.errno in _NO_NAME:
            return _told(UserError(_NO_NAME[error.errno], where=_short(error.filename), hint="give another path"))
        return _defect(error)
    return status


def _run(arguments: Sequence[str]) -> int:
    parsed = parse(arguments)
    if "verb" not in parsed:
        parsers()[0].print_help()
        return 0
    status: int | None = parsed.run(parsed)
    return status or 0


def _told(error: DistftError, *, as_json: bool = False) -> int:
    """To people on standard error; ``as_json``: to a script on standard output, too."""
    print(f"distft: {error}", file=sys.stderr)
    if as_json:
        said = {"error": str(error), "kind": type(error).__name__, "exit_status": error.exit_status}
        print(json.dumps(said), flush=True)
    return error.exit_status


def _short(path: object) -> str:
    text = str(path)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _defect(error: Exception) -> int:
    """What nobody foresaw. A run's log has the traceback and the error says so by a note; else it is shown here."""
    notes: list[str] = getattr(error, "__notes__", [])
    if not notes:
        traceback.print_exc()
    print(f"distft: a defect: {type(error).__name__}: {harmless(str(error))}", *notes, sep="\n  ", file=sys.stderr)
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


def run_main() -> NoReturn:
    """The console script. A character that the terminal's encoding lacks is spelled out: no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())


if __name__ == "__main__":
    run_main()
