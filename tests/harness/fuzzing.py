"""What must hold of any input, in this process: a fault is named as the user's or the machine's, in time, and nothing
is written elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distft.common.errors import EnvironmentFallsShort, UserError

HANGS_AFTER_S = 60
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
    "shutil.rmtree", "shutil.move", "os.utime", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
}  # fmt: skip


class Hangs(BaseException):
    """It took longer than anything that works does; no reader that names every `Exception` the user's hides it."""


@dataclass
class Watch:
    """Writes, and starts of programs, that this process tried outside of the folder ``inside``."""

    inside: Path | None = None
    outside: list[str] = field(default_factory=list)
    _is_on: bool = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: Python tells it of everything that it asks the system for."""
        if self.inside is None:
            return
        if event == "open" and isinstance(arguments[0], str | bytes) and isinstance(arguments[2], int):
            if arguments[2] & _WRITING:
                self._look(event, arguments[0])
        elif event in _CHANGES:
            self._look(event, arguments[0])

    def _look(self, event: str, place: Any) -> None:
        text = os.fsdecode(place) if isinstance(place, str | bytes | os.PathLike) else str(place)
        at = Path(os.path.abspath(text))
        starts = event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
        if starts or not (self.inside is None or at == Path(os.devnull) or at.is_relative_to(self.inside)):
            self.outside.append(f"{event} {text}")


WATCH = Watch()
sys.addaudithook(WATCH.hear)


@contextmanager
def watched(inside: Path) -> Iterator[list[str]]:
    """What is written outside of a folder within the block, a list that fills; what takes too long in it ``Hangs``."""
    former = signal.signal(signal.SIGALRM, _late)
    WATCH.inside, WATCH.outside = inside, []
    signal.alarm(HANGS_AFTER_S)
    try:
        yield WATCH.outside
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
        WATCH.inside = None


def _late(*_: Any) -> None:
    raise Hangs(f"more than {HANGS_AFTER_S} s")


def fault_of(work: Callable[[], object], inside: Path) -> str:
    """What is wrong with how some work takes its input; empty where nothing is."""
    try:
        with watched(inside) as outside:
            work()
    except (UserError, EnvironmentFallsShort) as error:
        if not str(error).strip() or "\x1b" in str(error):
            return f"says nothing that can be shown: {error!r}"
    except (Exception, Hangs) as error:
        lines = traceback.format_exc().splitlines()
        here = [line.strip() for line in lines if "/distft/" in line][-1:]
        return f"{type(error).__name__}: {str(error)[:200]} at {''.join(here)}"
    return f"outside: {outside[0]}" if outside else ""
