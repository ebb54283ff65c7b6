"""The HTML: templates filled in, styles and scripts inside, nothing that a browser would fetch."""

from __future__ import annotations

import importlib.util
import time
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distft.common.errors import EnvironmentFallsShort

# BokehJS: its core, and the interface by which scripts draw. Read as files: Python's bokeh is never imported.
_BOKEH = ("bokeh.min.js", "bokeh-api.min.js")
_PAGE = Path(__file__).with_name("page")


def render(template: str, **values: Any) -> bytes:
    """A page of ``distft/report/page``. All values are escaped where they stand; those for the script are JSON in which
    no tag can end or begin. Raises EnvironmentFallsShort where the plotting library is not installed.
    """
    text = _templates().get_template(template).render(
        style=Markup((_PAGE / "page.css").read_text(encoding="utf-8")),
        script=lambda name: _script((_PAGE / name).read_text(encoding="utf-8")),
        library=_library, written=time.strftime("%Y-%m-%d %H:%M:%S"), **values,
    )  # fmt: skip
    return text.encode("utf-8", "replace")  # half of a surrogate pair, as a tokenizer may give


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("distft.report", "page"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["shown"] = lambda value: f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return environment


def _library() -> Markup:
    found = importlib.util.find_spec("bokeh")
    folders = found.submodule_search_locations if found else None
    if not folders:
        raise EnvironmentFallsShort("the plotting library bokeh is not installed", hint="pip install bokeh")
    static = Path(folders[0]) / "server" / "static" / "js"
    return _script("\n".join((static / name).read_text(encoding="utf-8") for name in _BOKEH))


def _script(text: str) -> Markup:
    """The text of a script, in which nothing ends the element around it."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "<\\!--"))
