"""Text that has nothing to do with a run's data: how likely the policy still finds it shows what it has forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from distft.batches import Batch
from distft.common.errors import UserError
from distft.data.bad_rows import Unusable
from distft.data.encode import Encoded, Encoder
from distft.data.formats import TextExample, texts_of
from distft.data.readers import example_for
from distft.data.source_names import GENERAL_KIND, general_source
from distft.data.sources import format_of, read_rows
from distft.workers.asked_rows import answer_batch


def general_text(path: str, encoder: Encoder, count: int, longest: int) -> Batch:
    """The first ``count`` texts of a source (its test split, where it has splits), each cut to ``longest`` tokens, all
    but its first token to be predicted. Of rows that are no plain text everything that is said counts.

    Raises what reading a source can raise; UserError where nothing is in it.
    """
    found = list(islice(_encoded(path, encoder, longest), count))
    if not found:
        raise UserError("there is no text in it", where=f"evaluation.general: {path}", hint="name rows with a text")
    return answer_batch(found)


def _encoded(path: str, encoder: Encoder, longest: int) -> Iterator[Encoded]:
    source, format_name = general_source(path), ""
    for row in read_rows(source, "test"):
        format_name = format_name or format_of(source, row, GENERAL_KIND)
        try:
            text = "\n".join(texts_of(example_for(row, format_name, GENERAL_KIND)))
        except Unusable:
            continue
        encoded = encoder.supervised(TextExample(text, where=row.where), "all").truncated(longest)
        if encoded.trains:
            yield encoded
