"""Text that comes a token at a time."""

from __future__ import annotations

import numpy as np

from distft.data.decode import response_text
from distft.rollout.text_stream import TextStream
from tests.harness.speakers import tokenizer


def test_the_pieces_are_the_answer_and_no_character_is_torn() -> None:
    reader = tokenizer()
    prompt = np.array(reader("Hello")["input_ids"])
    response = [*reader(" Zoë says: 🙂 é!", add_special_tokens=False)["input_ids"], reader.eos_token_id]
    pieces: list[str] = []
    stream = TextStream(reader, prompt, {reader.eos_token_id}, pieces.append)
    for token in response:
        stream(np.array([token]))
    assert "".join(pieces) == "Zoë says: 🙂 é!"
    assert response_text(reader, prompt, response, ended=True) == " Zoë says: 🙂 é!"
    assert len(pieces) > 5
    assert not [piece for piece in pieces if "\N{REPLACEMENT CHARACTER}" in piece]
