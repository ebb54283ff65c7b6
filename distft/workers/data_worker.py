"""Rows to columns: tokenised data, reward functions, and what an experience needs of the whole batch at once.

One plain process. It keeps what it loaded, from ``unread`` on the way to what the reference said, and from
``begin_turns`` to ``finish_turns`` the turns of one rollout; every other request names a position or brings its
columns. So it may be restarted anywhere in a run: a rollout is then begun anew. It imports torch only to assign
credit, the code of models only to write one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from distft.batches import Batch, Difference
from distft.checkpoint.manifest import FileRecord, NotWritten, record_files
from distft.common.logging import stage
from distft.config.models import ScoringModel
from distft.config.recipe import Recipe
from distft.config.role_table import FURTHER, score_column
from distft.config.roles import longest_sequence
from distft.data.decode import answer_text, response_text
from distft.data.encode_apart import encoder_for
from distft.data.formats import Content, Example, prompt_of
from distft.data.reading_marks import reads_apart
from distft.data.sides import sides
from distft.data.turn_end import plain_end, special_tokens, turn_end
from distft.data.wanted import wanted_answer
from distft.models.limits import learned_positions
from distft.tracking.metrics import Sample
from distft.workers.episodes import Episodes, row_of, spoken
from distft.workers.held_out_answers import answer_metrics, questions
from distft.workers.informative import informative
from distft.workers.kept_batch import read_batch, write_batch
from distft.workers.kept_step import write_step
from distft.workers.kl_baseline import kl_baseline, mismatched
from distft.workers.own_prompts import own_prompts
from distft.workers.ptx import with_texts
from distft.workers.reference_cache import ReferenceCache
from distft.workers.rejected_answers import rejected_answers
from distft.workers.reports import Credited, Described, Judged, Loaded, Played, RowsPrepared, StepRows, Turned, Unread
from distft.workers.reward_functions import Texts
from distft.workers.reward_reading import as_trained, read_anew, within_positions
from distft.workers.run_data import RunData
from distft.workers.score_summary import score_summary
from distft.workers.spec import Start
from distft.workers.tails import Tails
from distft.workers.verbs import DataVerbs

KEPT_RESPONSES = "rollout/ahead.safetensors"
log = logging.getLogger(__name__)


class DataWorker(DataVerbs):
    """The data of a run, by position; see ``RunData``, whose arguments it takes."""

    def __init__(
        self, *, recipe: Recipe, starts: Mapping[str, Start], weights: bool = True, store: Path | None = None,
        tries_out: bool = True, **_: Any,
    ) -> None:  # fmt: skip
        self.data = RunData(recipe=recipe, starts=starts, weights=weights, store=store, tries_out=tries_out)
        self._contents: Mapping[str, str] | None = None
        self._reference: ReferenceCache | None = None
        self._preparing = self.data.prepare()

    def prepare_rows(self, seconds: float) -> tuple[RowsPrepared, None]:
        """Gets ready for about so long: whether it is ``done``, what it is ``doing``, and the hashes of the sources'
        ``contents`` once they are known. Calls of this before ``setup`` keep that within its deadline."""
        until = time.monotonic() + seconds
        for preparing in self._preparing:
            news = preparing.contents is not None
            self._contents = preparing.contents or self._contents
            if news or time.monotonic() >= until:
                stage(preparing.doing or "looking for tokenised rows")
                return RowsPrepared(done=False, doing=preparing.doing, contents=self._contents), None
        return RowsPrepared(done=True, doing="", contents=self._contents), None

    def setup(self) -> tuple[Loaded, None]:
        """What ``prepare_rows`` has left over; reports sizes."""
        for _ in self._preparing:
            pass
        return self.data.check(), None

    def close(self) -> tuple[None, None]:
        """Nothing to leave."""
        return None, None

    # ---- samples

    def batch(self, split: str, start: int, count: int) -> tuple[Described, Batch]:
        """``count`` units from position ``start``: tokens ready to be trained on, and their lengths and units."""
        units = self.data.units(split, start, count)
        batch = self.data.learned(split, units, range(start, start + count) if split == "train" else units)
        if self._reference is not None:
            batch = self._reference.attached(batch)
        described = _described(batch, self.data.tokenizer)
        if self.data.recipe.algorithm.traits.corrupts == "masks":  # what is read and what is learned are one text
            described = replace(described, lengths=tuple(batch.ragged("prompt_ids").lengths.tolist()))
        return described, batch

    def unread(self, until: int, at_most: int) -> tuple[Unread, Batch]:
        """See ``workers.reference_cache``; from then on ``batch`` has what is kept."""
        if self._reference is None:
            self._reference = ReferenceCache.of(self.data, until, at_most)
        batch, done, num_units = self._reference.unread()
        rows = _described(batch, self.data.tokenizer) if len(batch) else Described((), ())
        return Unread(rows, done, num_units), batch

    def keep_reference(self, *, batch: Batch) -> tuple[None, None]:
        """See ``workers.reference_cache``."""
        assert self._reference is not None, "nobody asked what is unread"
        self._reference.keep(batch)
        return None, None

    def prompts(self, split: str, start: int, count: int, samples_per_prompt: int) -> tuple[Described, Batch]:
        """``count`` prompts from position ``start``, each ``samples_per_prompt`` times.

        A sample is its own unit: no method needs the samples of a prompt in one micro-batch or optimizer step. What
        assigns credit sees the whole rollout, and knows them by their ``group``.
        """
        prompts = self.data.split(split).prompts(self.data.units(split, start, count))
        groups = np.repeat(np.arange(len(prompts), dtype=np.int64), samples_per_prompt)
        numbers = np.arange(len(groups), dtype=np.int64)
        batch = prompts.take(groups).with_columns(sample=numbers, unit=numbers, group=groups)
        return _described(batch, self.data.tokenizer), batch

    def questions(self, split: str, count: int) -> tuple[Described, Batch]:
        """See ``workers.held_out_answers``."""
        examples = self.data.split(split).rows(self.data.units(split, 0, count))
        start = self.data.starts["policy"]
        positions = learned_positions(start.path, trust_remote_code=start.trust_remote_code)
        found = questions(examples, encoder_for(self.data.tokenizer), positions, self.data.recipe)
        return _described(found, self.data.tokenizer), found

    def own_prompts(self, start: int, count: int) -> tuple[Described, Batch]:
        """See ``workers.own_prompts``."""
        recipe, dataset = self.data.recipe, self.data.split("train")
        units = self.data.units("train", start, count)
        encoder, longest = encoder_for(self.data.tokenizer), longest_sequence(recipe)
        found = own_prompts(dataset.rows(units), encoder, longest, recipe.rollout.max_new_tokens)
        if recipe.data.told_apart("train"):
            found = found.with_columns(source=dataset.sources(units)[found.dense("group")])
        return _described(found, self.data.tokenizer), found

    def general_text(self) -> tuple[Described, Batch]:
        """The text of ``evaluation.general``, as it was found at the start."""
        return _described(self.data.general, self.data.tokenizer), self.data.general

    def rejected_answers(self, split: str, count: int) -> tuple[Described, Batch]:
        """See ``workers.rejected_answers``."""
        examples = self.data.split(split).rows(self.data.units(split, 0, count))
        found = rejected_answers(examples, encoder_for(self.data.tokenizer), self.data.recipe)
        return _described(found, self.data.tokenizer), found

    def judge_answers(self, split: str, count: int, limit: int, *, batch: Batch) -> tuple[Judged, None]:
        """Answers to prompts of ``count`` held-out units by ``evaluation.metrics``, the first ``limit`` in words.

        ``count`` as it was asked for: ``group`` numbers the rows within that sample, and a smaller one has others.
        """
        stage("held-out answers")
        examples = self.data.split(split).rows(self.data.units(split, 0, count))
        asked = [examples[place] for place in batch.dense("group").tolist()]
        metrics: dict[str, float] = {}
        if names := self.data.recipe.evaluation.metrics:
            completions = self._completions([prompt_of(one) for one in asked], batch, [one.where for one in asked])
            metrics = answer_metrics(names, asked, completions, batch)
        samples, _ = self.texts(limit, batch=batch)
        wanted = [wanted_answer(one) for one in asked]
        return Judged(metrics, tuple(replace(one, wanted=wanted[at]) for at, one in enumerate(samples))), None

    def texts(self, limit: int, *, batch: Batch) -> tuple[list[Sample], None]:
        """The first ``limit`` samples as prompt, completion and score: for people to read."""
        rows, batch = [], self._with_score(batch)
        names = sides(batch)
        for index in range(min(limit, len(batch))):
            prompt, response = (batch.ragged(name)[index] for name in ("prompt_ids", "response_ids"))
            given = "ended" not in batch
            ended = given or bool(batch.dense("ended")[index])
            turns = spoken(self.data.tokenizer, batch, index) if "turns" in batch else None
            rows.append(
                Sample(
                    self.data.tokenizer.decode(prompt),
                    "\n".join(text for _, text in turns)
                    if turns
                    else response_text(self.data.tokenizer, prompt, response, ended=ended),
                    float(batch.dense("score")[index]) if "score" in batch else None,
                    side=names[index] or None,
                    turns=turns,
                )
            )
        return rows, None

    # ---- turns

    def begin_turns(self, split: str, start: int, samples_per_prompt: int, *, batch: Batch) -> tuple[None, None]:
        """See ``workers.episodes`` and ``workers.tails``. They are kept here until they are finished."""
        if self.data.tails is not None:
            self.data.tails.begin(batch)
            return None, None
        stage("environment")
        assert self.data.episodes is not None, "rollout.environment is set"
        examples = self._examples(split, start, samples_per_prompt, len(batch))
        names = [f"{one.where}, sample {place % samples_per_prompt}" for place, one in enumerate(examples)]
        self.data.episodes.begin([row_of(one) for one in examples], names, batch)
        return None, None

    def take_turns(self, *, batch: Batch) -> tuple[Turned, Batch | None]:
        """See ``Episodes.take`` and ``Tails.take``."""
        stage("turns")
        return self._turns().take(batch)

    def finish_turns(self) -> tuple[Played, Batch]:
        """See ``Episodes.finish`` and ``Tails.finish``."""
        return self._turns().finish()

    # ---- experience

    def reward_inputs(
        self, role: str, split: str, start: int, samples_per_prompt: int, *, batch: Batch
    ) -> tuple[Described | None, Batch | None]:
        """The rollout as the reward model of that role saw texts when it was trained; None where it is so already.

        Where its tokenizer is not proven to be the policy's, the *text* is read anew, through the reward model's
        template: see ``read_anew``. Else only the ends are looked at: see ``as_trained``.
        """
        read: Batch | None
        reader = self.data.readers[role]
        if reader.same:
            plain, chat = plain_end(self.data.tokenizer), turn_end(self.data.tokenizer)
            examples = self._examples(split, start, samples_per_prompt, len(batch))
            ends = [plain if isinstance(prompt_of(one), str) else chat for one in examples]
            read = as_trained(batch, ends, special_tokens(self.data.tokenizer))
        else:
            texts = self._prompts_and_completions(split, start, samples_per_prompt, batch)
            encoder, where = encoder_for(reader.tokenizer, role), f"sample of position {start}"
            read = read_anew(batch, *texts, encoder, where, reader.positions)
        if read is None:
            return None, None
        read = within_positions(read, reader.positions, apart=reads_apart(reader.tokenizer))
        return _described(read, reader.tokenizer), read

    def weigh_scores(self, *, batch: Batch) -> tuple[dict[str, float], Batch]:
        """Column ``score``, the weighted sum of what several reward models say, each in its own (``score_column``);
        reports each one's mean by name."""
        total = np.zeros(len(batch), np.float32)
        means: dict[str, float] = {}
        for role in self.data.readers:
            model, scores = self.data.recipe.models.of(role), batch.dense(score_column(role))
            assert isinstance(model, ScoringModel)
            means[f"rewards/{role.removeprefix(FURTHER)}"] = float(scores.astype(np.float64).mean())
            total += np.float32(model.weight) * scores
        return means, Batch({"sample": batch.dense("sample"), "score": total})

    def function_scores(
        self, split: str, start: int, samples_per_prompt: int, *, batch: Batch
    ) -> tuple[dict[str, float], Batch]:
        """Column ``function_score``, the weighted sum of reward functions, servers and judges; reports each one's mean
        by name, and how far judges can be believed.

        A function is called as ``f(prompts, completions, **columns)`` and answers a number for each completion.
        Raises UserError, naming it, for an exception in it, a wrong number of answers, NaN or infinity.
        """
        stage("reward functions")
        prompts, completions = self._prompts_and_completions(split, start, samples_per_prompt, batch)
        extra = self._extra_columns(split, start, samples_per_prompt, len(batch))
        texts = Texts(prompts, completions, extra, samples_per_prompt)
        total = np.zeros(len(batch), np.float32)
        means: dict[str, float] = {}
        for reward in self.data.rewards:
            said = reward.ask(texts)
            means |= {f"rewards/{reward.name}": float(said.scores.mean()), **said.metrics}
            total += reward.weight * said.scores
        return means, Batch({"sample": batch.dense("sample"), "function_score": total})

    def informative(self, at_most: int, first: int, *, batch: Batch) -> tuple[Described, Batch]:
        """See ``workers.informative``; ``score`` is what models and functions say together."""
        scored = self._with_score(batch).columns
        chosen = informative(Batch({n: c for n, c in scored.items() if n != "function_score"}), at_most, first)
        return _described(chosen, self.data.tokenizer), chosen

    def keep_responses(self, staging: str, *, batch: Batch) -> tuple[list[FileRecord | NotWritten], None]:
        """As ``rollout/ahead.safetensors``. A disk that refuses it is reported, and the run goes on."""
        try:
            write_batch(Path(staging) / KEPT_RESPONSES, batch)
            return [*record_files(Path(staging), [KEPT_RESPONSES])], None
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
            return [NotWritten(f"data worker: {error}")], None

    def keep_step(self, folder: str, rows: StepRows, *, batch: Batch) -> tuple[str, None]:
        """See ``workers.kept_step``."""
        units = self.data.units("train", rows.start, rows.count)
        places = [row.where for row in self.data.split("train").rows(units)]
        try:
            write_step(Path(folder), batch, rows, places, self.data.recipe.seed)
        except (OSError, SafetensorError) as error:
            return str(error), None
        return "", None

    def kept_responses(self, checkpoint: str) -> tuple[Described, Batch]:
        """What ``keep_responses`` wrote."""
        batch = read_batch(Path(checkpoint) / KEPT_RESPONSES)
        return Described(tuple(batch.ragged("response_ids").lengths.tolist()), tuple(range(len(batch)))), batch

    def assign_credit(self, state: Mapping[str, Any], *, batch: Batch) -> tuple[Credited, Batch]:
        """See ``judged``. Model and function scores, where both are there, are added with their weights."""
        from distft.workers.judging import judged

        stage("advantages")
        report, columns = judged(self._with_score(batch), self.data.recipe.algorithm, state)
        if "prompt_ids" in columns:
            report = replace(report, chosen=_described(columns, self.data.tokenizer))
        return report, columns

    def with_texts(self, start: int, count: int, *, batch: Batch) -> tuple[Described, Batch]:
        """See ``workers.ptx``."""
        found = with_texts(batch, self.data.texts(start, count))
        return _described(found, self.data.tokenizer), found

    def score_summary(self, *, batch: Batch) -> tuple[dict[str, float], None]:
        """See ``score_summary``."""
        return score_summary(self._with_score(batch)), None

    def mismatched(self, longest: int, *, batch: Batch) -> tuple[Described, Batch]:
        """See ``workers.kl_baseline``."""
        found = mismatched(batch, longest)
        return _described(found, self.data.tokenizer), found

    def kl_baseline(self, *, batch: Batch) -> tuple[None, Batch]:
        """See ``workers.kl_baseline``."""
        return None, kl_baseline(batch)

    def logprob_difference(self, one: str, other: str, *, batch: Batch) -> tuple[Difference, None]:
        """How far two token columns are apart over the trained tokens: a step-0 invariant's figures."""
        columns = [batch.ragged(name).values for name in (one, other)]
        if "response_mask" in batch:
            trained = batch.ragged("response_mask").values.astype(bool)
            columns = [column[trained] for column in columns]
        return Difference.of(*columns), None

    # ---- inside

    def _turns(self) -> Episodes | Tails:
        found = self.data.tails or self.data.episodes
        assert found is not None, "rollout.environment or rollout.cut_tails is set"
        return found

    def _examples(self, split: str, start: int, samples_per_prompt: int, count: int) -> list[Example]:
        """The row that each of ``count`` samples from position ``start`` answers."""
        rows = self.data.split(split).rows(self.data.units(split, start, count // samples_per_prompt))
        return [row for row in rows for _ in range(samples_per_prompt)]

    def _prompts_and_completions(
        self, split: str, start: int, samples_per_prompt: int, batch: Batch
    ) -> tuple[list[Any], list[str]]:
        prompts = [prompt_of(one) for one in self._examples(split, start, samples_per_prompt, len(batch))]
        return prompts, self._completions(prompts, batch, [f"sample of position {start}"] * len(prompts))

    def _completions(self, prompts: Sequence[Content], batch: Batch, where: Sequence[str]) -> list[str]:
        prompt_ids, response_ids, ended = batch.ragged("prompt_ids"), batch.ragged("response_ids"), batch.dense("ended")
        return [
            answer_text(
                self.data.tokenizer,
                prompt,
                prompt_ids[row],
                response_ids[row],
                ended=bool(ended[row]),
                where=where[row],
            )
            for row, prompt in enumerate(prompts)
        ]

    def _extra_columns(self, split: str, start: int, samples_per_prompt: int, count: int) -> dict[str, list[Any]]:
        examples = self._examples(split, start, samples_per_prompt, count)
        names = sorted({name for example in examples for name in example.extra})
        return {name: [example.extra.get(name) for example in examples] for name in names}

    def _with_score(self, batch: Batch) -> Batch:
        if "function_score" not in batch:
            return batch
        reward = self.data.recipe.models.reward
        weight = reward.weight if reward and not self.data.recipe.models.rewards else 1.0  # several are weighed already
        model = batch.dense("score") * weight if "score" in batch else 0.0
        return batch.with_columns(score=(batch.dense("function_score") + model).astype(np.float32))


def _described(batch: Batch, tokenizer: Any) -> Described:
    """What the controller may know of a batch: numbers of tokens, and which samples belong together."""
    prompts = batch.ragged("prompt_ids").lengths
    answers = batch.ragged("response_ids").lengths if "response_ids" in batch else np.zeros_like(prompts)
    return Described(
        tuple((prompts + answers).tolist()),
        tuple(batch.dense("unit").tolist()),
        tuple(answers.tolist()) if reads_apart(tokenizer) else (),
    )
