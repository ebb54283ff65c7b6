"""Which files of a local folder are the rows of a list: by the splits that file and folder names speak of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from distft.common.errors import UserError, nearest
from distft.data.files import SUFFIXES, TEXT, data_suffix

# The split that a list of the recipe asks of a source that names none, under the names splits go by.
SPLIT_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "train": ("train", "training"),
    "eval": ("validation", "eval", "valid", "val", "dev", "evaluation"),
    "test": ("test", "testing"),
}
_KNOWN: Final = frozenset(name for names in SPLIT_NAMES.values() for name in names)
# What `datasets` writes beside the rows, in its folders and in the hub's.
_METADATA: Final = frozenset({"dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"})
_SHARD: Final = re.compile(r"\d+|of|(part|shard|chunk)\d*")


def folder_files(folder: Path, split: str | None, list_name: str) -> list[Path]:
    """The data files of a split, in order: of ``split``, or of the list's where file names tell splits apart, else all.

    Hidden files, those that begin with ``_`` and metadata of ``datasets`` are no data, nor are texts beside other data:
    they are its licence, or tell of it. UserError: no data files, no such split, or several that the list may mean
    (``train_sft``, ``train_prefs``).
    """
    names = {path: path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()}
    files = [path for path, name in names.items() if data_suffix(path) and not _is_metadata(name)]
    files = [path for path in files if data_suffix(path) != TEXT] or files
    if not files:
        kinds = ", ".join(SUFFIXES)
        raise UserError("the folder has no data files", where=str(folder), hint=f"{kinds} are read, each also with .gz")
    labels = {path: _label(names[path]) for path in files}
    there = sorted(set(filter(None, labels.values())))
    if split is not None:
        found = [path for path in files if split.lower() in (labels[path], *_words(names[path]))]
        if not found:
            raise no_split(str(folder), split, there)
        return found
    if not there:
        return files
    wanted = split_of(list_name, there, str(folder))
    return [path for path in files if labels[path] == wanted]


def no_split(path: str, split: str, there: Iterable[str]) -> UserError:
    """The error for a split that a source does not have; names the nearest."""
    listed = list(there)
    near = nearest(split, listed)
    hint = f"did you mean `split: {near}`? " if near else "set `split` on the source. "
    return UserError(f"no split {split!r}", where=path, hint=f"{hint}There are: {', '.join(listed) or 'none'}")


def split_of(list_name: str, there: Sequence[str], where: str) -> str:
    """The split that a list means: one by its very name, else the only one whose name has it as a part. UserError
    where there is none, or several."""
    for name in SPLIT_NAMES[list_name]:
        if name in there:
            return name
    near = [label for label in there if set(label.split("_")) & set(SPLIT_NAMES[list_name])]
    if not near:
        raise no_split(where, list_name, there)
    if len(near) > 1:
        raise UserError(
            f"several splits may be meant for {list_name}: {', '.join(near)}",
            where=where,
            hint=f"name one on the source, such as `split: {near[0]}`; a source each for more than one",
        )
    return near[0]


def _is_metadata(name: Path) -> bool:
    return name.name in _METADATA or any(part.startswith((".", "_")) for part in name.parts)


def _label(name: Path) -> str:
    """The split that a file's name speaks of, or else its folder's: ``train_prefs-00000-of-00002.parquet`` of
    train_prefs; "" where they speak of none."""
    return next((word for word in _words(name) if set(word.split("_")) & _KNOWN), "")


def _words(name: Path) -> list[str]:
    """The words of a path that may name a split, without numbers of shards; the file's before its folders'."""
    found = []
    for part in reversed(name.parts):
        for word in re.split(r"[^a-z0-9_]+", part.lower()):
            pieces = [piece for piece in word.split("_") if piece and not _SHARD.fullmatch(piece)]
            found.append("_".join(pieces))
    return [word for word in found if word]
