"""What a source holds, as a hash of its content: so that rows are tokenised once, and changed ones are noticed.

A file is hashed once: the store remembers the hash with the file's size and times. A hub data set is known by the
checksums of the files it was made from, the embedded corpus by its name, as it is a constant.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from distft.common.errors import UserError
from distft.common.files import parse_json, write_json
from distft.config.data import Data, Source
from distft.config.find_method import traits_of
from distft.data.reading_marks import reads_apart, reads_both_ways
from distft.data.sources import hub_dataset, is_builtin, source_files
from distft.data.splits import LIST_NAMES
from distft.data.tokenizer_training import serialised_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK: Final = 32 * 2**20
_MEMO: Final = "contents.json"
# A file whose last change is as young as this may change again without a later time stamp.
_SETTLED_S: Final = 2.0
# Keys that decide which of the rows are visited and in what order, but not one row's tokens. How many rows may be
# bad is judged anew at every start.
_NOT_THE_TOKENS: Final = {
    "train", "eval", "test", "ptx", "shuffle", "holdout", "num_workers", "cache_dir", "on_bad_row", "max_dropped",
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """``digest`` of a source's content; ``num_rows`` where it is known before the rows are read, perhaps too high."""

    digest: str
    num_rows: int | None
    files: tuple[tuple[str, int, int], ...] = ()  # path, size and time of change when they were hashed

    def require_unchanged(self) -> None:
        """UserError where a file is not what was hashed any more: its rows were changed while they were read."""
        for path, size, changed in self.files:
            if _state(Path(path)) != (size, changed):
                raise UserError(
                    "the file was changed while it was read", where=path, hint="start again once it is whole"
                )


def content_of(source: Source, list_name: str, folder: Path) -> Generator[str, None, Content]:
    """The content of a source; gives way now and then, saying what it does. ``folder`` keeps the hashes of files.

    UserError, EnvironmentFallsShort: what looking for the source can raise.
    """
    if is_builtin(source):
        return Content(_digest(source.path, source.split or list_name), None)
    files = source_files(source, list_name)
    if not files:
        loaded, split = hub_dataset(source, list_name)
        checksums = loaded.info.download_checksums
        made_from = sorted(checksums) if checksums else loaded._fingerprint
        return Content(_digest(source.path, split, made_from, len(loaded)), len(loaded))
    known = _read_memo(folder)
    hashed, states, num_rows = [], [], 0
    for path in files:
        size, changed = _state(path)
        entry = known.get(str(path.absolute()))
        if entry is None or entry[:2] != [size, changed]:
            entry = [size, changed, *(yield from _hash(path))]
            if time.time() - changed / 1e9 > _SETTLED_S:
                _remember(folder, path, entry)
        hashed.append(entry[2])
        states.append((str(path), size, changed))
        num_rows += entry[3]
    countable = all(path.suffix.lower() == ".jsonl" for path in files)
    return Content(hashed[0] if len(hashed) == 1 else _digest(*hashed), num_rows if countable else None, tuple(states))


def contents_of_files(data: Data, folder: Path) -> dict[str, str]:
    """The digests of those sources that are files, by their keys: at once where ``folder`` remembers them."""
    found = {}
    for list_name in (*LIST_NAMES, "ptx"):
        split = "train" if list_name == "ptx" else list_name
        for number, source in enumerate(getattr(data, list_name)):
            if source_files(source, split):
                looking = content_of(source, split, folder)
                try:
                    while True:
                        next(looking)
                except StopIteration as done:
                    found[f"data.{list_name}.{number}"] = done.value.digest
    return found


def tokens_key(source: Source, content: Content, kind: str, loss_on: str | None, data: Data,
               tokenizer: PreTrainedTokenizerBase) -> str:  # fmt: skip
    """Equal where the rows of a source become the same tokens: by content, tokenizer, template, limits and algorithm,
    and by the code that makes them."""
    limits = data.model_dump(mode="json", exclude=_NOT_THE_TOKENS)
    read = source.model_dump(mode="json", exclude={"weight", "share", "name"})
    return _digest(_code(), read, content.digest, *_made_by(kind), loss_on, limits, _tokenizer(tokenizer))[:32]


def _made_by(kind: str) -> list[Any]:
    """What of a method decides on tokens: how a row is read and made into a unit, and for which model."""
    traits = traits_of(kind)
    blocks = [traits.in_blocks, traits.corrupts]
    return [traits.unit.name, traits.formats, traits.main == "reward", traits.sampled, *blocks]


@cache
def _code() -> list[str]:
    """This package's own text and the versions of what it calls: other code may make other tokens."""
    texts = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    return [hashlib.sha256(b"\0".join(texts)).hexdigest(), *map(version, ("tokenizers", "transformers", "pyarrow"))]


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> Any:
    serialised = serialised_tokenizer(tokenizer)
    if serialised is not None:
        return serialised
    named = {name: str(value) for name, value in sorted(tokenizer.special_tokens_map.items())}
    return [type(tokenizer).__qualname__, sorted(tokenizer.get_vocab().items()), named, tokenizer.chat_template,
            tokenizer.name_or_path, reads_apart(tokenizer), reads_both_ways(tokenizer)]  # fmt: skip


def _hash(path: Path) -> Generator[str, None, tuple[str, int]]:
    """Digest and number of lines of a file."""
    digest, lines, done, size = hashlib.sha256(), 0, 0, max(1, path.stat().st_size)
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                lines += block.count(b"\n")
                done += len(block)
                if done < size:
                    yield f"looking for changes in {path} ({done / size:.0%})"
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror or error}", where=str(path), hint="may you read it?"
        ) from error
    return digest.hexdigest(), lines + 1


def _state(path: Path) -> tuple[int, int]:
    """Size, and time of change in nanoseconds."""
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    return status.st_size, status.st_mtime_ns


def _read_memo(folder: Path) -> dict[str, list[Any]]:
    """Path -> size, time, digest, lines; empty where it cannot be read: it only saves time."""
    try:
        found = parse_json((folder / _MEMO).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(folder: Path, path: Path, entry: list[Any]) -> None:
    with contextlib.suppress(OSError):  # whoever writes rows there will say it
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _MEMO, _read_memo(folder) | {str(path.absolute()): entry})


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
