"""Where a role's model begins, if the run itself makes what lies there: a model from nothing, or one with new tokens.

A folder is there complete or not at all; one that is there stays, and a resumed run begins from it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from distft.common.errors import UserError
from distft.common.logging import stage
from distft.config.models import Init
from distft.config.new_tokens import new_tokens
from distft.config.recipe import Recipe
from distft.config.roles import model_of
from distft.data.bad_rows import BadRows
from distft.data.sources import corpus_texts
from distft.data.tokenizer_training import train_tokenizer
from distft.models.tokenizer import load_tokenizer
from distft.planning.encoder_decoders import require_extensible
from distft.planning.model_folders import read_config
from distft.workers.spec import Start

log = logging.getLogger(__name__)


def write_init(start: Start, init: Init, recipe: Recipe, *, weights: bool) -> None:
    """An ``init:`` model into its folder; without ``weights`` its config and tokenizer only."""
    if Path(start.path).is_dir():
        return
    from distft.models.start import create_model  # brings torch, and the code of models

    stage(f"making {start.path}")
    sources = init.tokenizer.train_on or recipe.data.train
    bad = BadRows(recipe.data, "train")
    texts = (text for source in sources for text in corpus_texts(source, bad))
    tokenizer = train_tokenizer(texts, init.vocab_size, init.tokenizer.chat_template, reader=init.architecture)
    draft = _draft(start)
    create_model(init, tokenizer, draft, seed=start.seed, weights=weights)
    draft.rename(start.path)


def extend_start(start: Start, role: str, recipe: Recipe, *, weights: bool) -> str:
    """The model at ``start.extends`` with its new tokens into the folder of ``start``; without ``weights`` its config
    and tokenizer only. Returns a warning, or "".

    Raises UserError for texts that cannot become tokens, and where those that are asked for now are not those that the
    run began with.
    """
    from distft.models import vocabulary_extension  # brings torch, and the code of models

    where, model = f"models.{role}.extend_vocabulary", model_of(recipe, role)
    texts = new_tokens(model.extend_vocabulary or (), where)
    folder = vocabulary_extension.fetched(start.extends, weights=weights)
    require_extensible(read_config(folder), where)
    tokenizer = load_tokenizer(str(folder), trust_remote_code=start.trust_remote_code)
    numbers = vocabulary_extension.add_tokens(tokenizer, texts, where)
    if not Path(start.path).is_dir():
        stage(f"making {start.path}")
        draft = _draft(start)
        vocabulary_extension.write_extended(folder, tokenizer, numbers, draft, model, weights=weights)
        draft.rename(start.path)
        log.info("%s: %d new tokens, from %d on", where, len(numbers), numbers[0])
    elif load_tokenizer(start.path, trust_remote_code=start.trust_remote_code).get_vocab() != tokenizer.get_vocab():
        hint = "the texts as they were, or another output_dir"
        raise UserError("these are not the tokens that the run began with", where=where, hint=hint)
    left = len(texts) - len(numbers)
    return f"{where}: {left} of {len(texts)} texts are tokens already, and stay as they are" if left else ""


def _draft(start: Start) -> Path:
    return Path(f"{start.path}.draft-{os.getpid()}")
