"""The rows that every candidate of a benchmark is given, and how their tokens are counted."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.reference.tiny_models import save_llama, train_tokenizer

TURN = "\n\nAssistant:"
VOCAB_SIZE, MAX_LENGTH, MAX_PROMPT_LENGTH = 2048, 512, 256
# 25.2 M parameters, tied embeddings.
SIZES: dict[str, Any] = {"hidden_size": 512, "intermediate_size": 1280, "num_layers": 8, "num_heads": 8}


@dataclass(frozen=True)
class Rows:
    """Where the prepared rows and model lie, and the tokens of each row.

    A token counts once wherever it is trained on or read as context, padding not: a preference row
    counts the prompt with the chosen and again with the rejected response, and a text row its text,
    each with its EOS. What a reference model reads besides is not counted.
    """

    preference_file: Path
    text_file: Path
    model: Path
    preference_tokens: list[int]
    text_tokens: list[int]


def real_data_folder() -> Path:
    folder = Path(os.environ.get("DISTFT_REAL_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not (folder / "hh-rlhf").is_dir():
        raise SystemExit(f"no HH-RLHF rows in {folder}: set DISTFT_REAL_DATA")
    return folder


def read_pairs(folder: Path) -> list[dict[str, str]]:
    """HH-RLHF dialogues as prompt, chosen, rejected: the prompt is what both share up to the last assistant's turn."""
    pairs = []
    with gzip.open(folder / "hh-rlhf/harmless-base.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            cut = row["chosen"].rfind(TURN) + len(TURN)
            prompt = row["chosen"][:cut]
            if row["rejected"].startswith(prompt) and row["rejected"][cut:].strip() and row["chosen"][cut:].strip():
                pairs.append({"prompt": prompt, "chosen": row["chosen"][cut:], "rejected": row["rejected"][cut:]})
    return pairs


def prepare(folder: Path, num_rows: int) -> Rows:
    """Writes the model and the first ``num_rows`` pairs that fit the limits whole, so that nobody cuts or drops any."""
    pairs = read_pairs(real_data_folder())
    tokenizer = train_tokenizer((pair["prompt"] + pair["chosen"] for pair in pairs), VOCAB_SIZE)

    def length(text: str) -> int:
        return len(tokenizer(text)["input_ids"])

    kept, preference_tokens, text_tokens = [], [], []
    for pair in pairs:
        chosen, rejected = (length(pair["prompt"] + pair[side]) + 1 for side in ("chosen", "rejected"))
        if length(pair["prompt"]) <= MAX_PROMPT_LENGTH and max(chosen, rejected) <= MAX_LENGTH:
            kept.append(pair)
            preference_tokens.append(chosen + rejected)
            text_tokens.append(chosen)
        if len(kept) == num_rows:
            break
    texts = [{"text": pair["prompt"] + pair["chosen"]} for pair in kept]
    for name, rows in (("preference", kept), ("text", texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model = save_llama(folder / "model", tokenizer, vocab_size=VOCAB_SIZE, dtype=torch.bfloat16, **SIZES)
    return Rows(folder / "preference.jsonl", folder / "text.jsonl", model, preference_tokens, text_tokens)


def load(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
