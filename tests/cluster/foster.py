"""Runs a command, and is the parent of all that it leaves behind: ``python -I foster.py STATUS COMMAND ...``.

What the command's descendants abandon comes to this process (a child subreaper) and not to PID 1, so that the
tree below this process is what the command has ever started, and nothing else. The command's exit status is
written to the file STATUS; this process ends when it has no children left.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def main(status: Path, command: list[str]) -> None:
    """Returns when everything has ended that the command has started."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    child = subprocess.Popen(command)
    try:
        while True:
            pid, code = os.wait()
            if pid == child.pid:
                part = status.with_suffix(".part")
                part.write_text(str(os.waitstatus_to_exitcode(code)))
                part.rename(status)
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
