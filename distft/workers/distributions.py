"""What a teacher tells of every token of given answers, as columns beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from distft.algorithms.divergences import Told
from distft.batches import Array, Batch, Ragged
from distft.engine.engine import Engine
from distft.models.families.family import Family
from distft.workers.collate import collate
from distft.workers.verbs import MicroBatches


def distributions(
    engine: Engine, family: Family, batch: Batch, micro_batches: MicroBatches, told: Told, temperature: float,
    pad_token: int,
) -> Batch:  # fmt: skip
    """Columns ``teacher_logprobs`` and, of a part of the vocabulary, ``teacher_ids``; see ``Told``. Of tokens that
    nothing is learned of they are 0.

    One micro-batch after the other goes to the host: what the device holds does not grow with the batch.
    """
    rows_of = batch.rows_of_samples()
    lengths = batch.ragged("response_ids").lengths if len(batch) else np.zeros(0, np.int64)
    found: dict[str, Array] = {}
    with torch.no_grad():
        for samples in micro_batches:
            rows = [rows_of[sample] for sample in samples]
            micro = replace(collate(family, batch, rows, (), pad_token, engine.device), measure=told)
            answers = family.outputs(engine.forward, micro, told.names, "tokens", temperature)
            for name in told.names:
                answer = answers[name]
                if name not in found:
                    dtype = np.float32 if answer.is_floating_point() else np.int32
                    found[name] = np.zeros((int(lengths.sum()), answer.shape[1]), dtype)
                if len(micro.places):
                    found[name][micro.places] = answer.cpu().numpy()
    samples_there = batch.dense("sample") if len(batch) else np.zeros(0, np.int64)
    return Batch({"sample": samples_there, **{name: Ragged.split(values, lengths) for name, values in found.items()}})
