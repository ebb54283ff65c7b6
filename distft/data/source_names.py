"""What the path of a source means where nothing of that name lies here: a name of the hub, or a slip."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from distft.common.errors import UserError, nearest
from distft.common.files import nearest_beside
from distft.config.data import Source
from distft.data.files import data_suffix, missing_file

BUILTIN: Final = "builtin:"
GENERAL_KIND: Final = "sft"  # as which method's rows the text of ``evaluation.general`` is read
_GENERAL: Final = "builtin"  # the word for the text below
_GENERAL_TEXT: Final = f"{BUILTIN}stories"
_HUB_NAME: Final = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_SUFFIX: Final = re.compile(r"\.[A-Za-z]\w*")


def require_hub_name(text: str, corpora: Iterable[str]) -> None:
    """Raises UserError, naming what was meant, for a path that is not there, or nearly the name of a file here or of
    one of the embedded ``corpora``."""
    path = Path(text).expanduser()
    if data_suffix(path) or text[0] in "./~\\" or not _HUB_NAME.fullmatch(text):
        raise missing_file(path)
    scheme, colon, name = text.partition(":")
    if colon and "/" not in scheme and nearest(scheme, [BUILTIN[:-1]]):
        meant = nearest(name, corpora)
        hint = f"did you mean {BUILTIN}{meant}?" if meant else f"embedded corpora begin with {BUILTIN}"
        raise UserError(f"there is neither a file nor a data set {text}", where=text, hint=hint)
    near = nearest_beside(path)
    if near is not None and data_suffix(near) and _SUFFIX.fullmatch(path.suffix):
        raise missing_file(path)


def local_hint(text: str) -> str:
    """The file or folder here that a name of the hub may have been meant for; "" where there is none."""
    near = nearest_beside(Path(text).expanduser())
    return f"for a local file, did you mean {near}?" if near else ""


def general_source(text: str) -> Source:
    """The source that ``evaluation.general`` names. Raises UserError for what is nearly its word for embedded text."""
    if text == _GENERAL:
        return Source(path=_GENERAL_TEXT)
    if nearest(text, [_GENERAL]) and not Path(text).exists():
        raise UserError(f"there is neither a file nor a data set {text}", where="evaluation.general",
                        hint=f"did you mean {_GENERAL}?")  # fmt: skip
    return Source(path=text)
