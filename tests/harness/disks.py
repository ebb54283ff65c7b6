"""Disks of a test's own: that fill, are not there any more, or cannot be written."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, *words: str, busy: bool = False) -> Iterator[Path]:
    """``mount WORDS FOLDER`` of a folder that is there, undone at the end; skips where nothing can be mounted.

    CalledProcessError where files on it are still open at the end, unless they may be: ``busy``.
    """
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        if busy:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
        else:
            subprocess.run(["umount", str(folder)], check=True)


def small_disk(folder: Path, megabytes: int, *, busy: bool = False) -> contextlib.AbstractContextManager[Path]:
    """A disk of this size, in memory; see ``mounted``."""
    return mounted(folder, "-t", "tmpfs", "-o", f"size={megabytes}M", "tmpfs", busy=busy)


def fill(folder: Path) -> Path:
    """To the last byte; the file that does it."""
    filler = folder / "filler"
    with open(filler, "ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    return filler
