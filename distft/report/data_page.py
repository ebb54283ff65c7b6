"""What became of a recipe's rows, as one page."""

from __future__ import annotations

from pathlib import Path

from distft.common.errors import UserError
from distft.common.files import write_atomic
from distft.data.xray_result import DataXRay
from distft.report.page import render


def write_data_page(found: DataXRay, path: Path) -> Path:
    """Writes the page and returns where. UserError where it cannot be written."""
    try:
        write_atomic(path, render("data.html", title=f"Data of {found.name}", found=found, first=[], others=[]))
    except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError) as error:
        hint = "give another with --html FILE, in a folder that is there"
        raise UserError(f"the page cannot be written: {error.strerror}", where=str(path), hint=hint) from error
    return path
