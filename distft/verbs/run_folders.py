"""How the folder of a run is typed."""

from __future__ import annotations

from pathlib import Path


def run_folder(text: str) -> Path:
    """Also as models are named: ``run:<output_dir>``."""
    return Path(text.removeprefix("run:"))
