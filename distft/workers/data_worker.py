"""Rows to columns: tokenised data, reward functions, and what an experience needs of the whole batch at once.

One plain process. It is stateless but for what it loaded: every request names a position or brings its columns,
so it may be restarted anywhere in a run. It imports torch only to assign credit, the code of models only to write one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from distft.batches import Batch, Difference
from distft.checkpoint.manifest import FileRecord, NotWritten, record_files
from distft.common.logging import stage
from distft.common.seeding import derive
from distft.config.method import ANSWERS
from distft.config.models import ScoringModel
from distft.config.recipe import Recipe
from distft.config.role_table import FURTHER, SAME_TOKENS, gives_scores, score_column
from distft.config.roles import longest_sequence
from distft.data.bad_rows import BadRows
from distft.data.class_labels import numbers_of
from distft.data.corruption import corrupted, corruption_of
from distft.data.dataset import Preparing, prepare_datasets
from distft.data.decode import answer_text, response_text
from distft.data.encode_apart import encoder_for
from distft.data.formats import Content, prompt_of
from distft.data.known_tokens import require_known
from distft.data.reading_marks import reads_apart, reads_both_ways
from distft.data.sampler import proportional_sample
from distft.data.sides import sides
from distft.data.sources import corpus_texts, hub_notes
from distft.data.splits import LIST_NAMES
from distft.data.store import store_folder
from distft.data.tokenized import TokenizedDataset
from distft.data.tokenizer_training import tokenizers_equal, train_tokenizer
from distft.data.turn_end import plain_end, special_tokens, turn_end
from distft.data.vocabulary import require_policys_tokens, require_rows
from distft.data.wanted import wanted_answer
from distft.data.whole_units import require_whole
from distft.models.limits import embedding_rows, learned_positions
from distft.models.tokenizer import load_tokenizer, num_tokens
from distft.tracking.metrics import Sample
from distft.workers.general_text import general_text
from distft.workers.held_out_answers import answer_metrics, questions, require_answers
from distft.workers.informative import informative
from distft.workers.kept_batch import read_batch, write_batch
from distft.workers.kl_baseline import kl_baseline, mismatched
from distft.workers.reports import Credited, Described, Judged, Loaded, RowsPrepared
from distft.workers.reward_functions import TextReward, text_rewards
from distft.workers.reward_reading import Reader, as_trained, read_anew, within_positions
from distft.workers.spec import Start
from distft.workers.verbs import DataVerbs

KEPT_RESPONSES = "rollout/ahead.safetensors"
log = logging.getLogger(__name__)


class DataWorker(DataVerbs):
    """The data of a run. ``starts`` says where each role's model begins."""

    def __init__(
        self, *, recipe: Recipe, starts: Mapping[str, Start], weights: bool = True, store: Path | None = None, **_: Any
    ) -> None:
        """``weights``: whether ``init:`` models get any; without, there is enough for everything that is done here.
        ``store`` of the tokenised rows, by default where the recipe says."""
        self._recipe = recipe
        self._starts = dict(starts)
        self._weights = weights
        self._store = store or store_folder(recipe.data.cache_dir, recipe.output_dir)
        self._rewards: list[TextReward] = []
        self._contents: Mapping[str, str] | None = None
        self._preparing = self._prepare()

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
        main = "policy" if "policy" in self._starts else "reward"
        self._require_known(list(self.lists.values()), self._starts[main])
        if self._recipe.algorithm.telling() is not None:
            for role, start in self._starts.items():
                rows = embedding_rows(start.path, trust_remote_code=start.trust_remote_code)
                require_rows(role, num_tokens(self._tokenizer), rows)
        require_whole(self.lists, self._recipe.algorithm.unit_rows())
        require_answers(self._recipe, self.lists)
        if self._recipe.evaluation.general is not None:
            self._general = self._general_text()
        if labels := self._recipe.algorithm.head_labels():
            for dataset in self.lists.values():
                numbers_of(dataset.class_names(range(dataset.num_units)), labels)
        statistics = {name: dataset.statistics for name, dataset in self.lists.items()}
        for name, found in statistics.items():
            for bad in found.bad:
                log.info("left out of data.%s: %s: %s (hash %s)", name, bad.where, bad.what, bad.digest)
        warnings = [f"data.{name}: {text}" for name, found in statistics.items() for text in found.warnings]
        loaded = Loaded(
            num_units={name: self.lists[name].epochs.num_units if name in self.lists else 0 for name in LIST_NAMES},
            statistics={name: str(found) for name, found in statistics.items()},
            leaked={name: found.num_leaked for name, found in statistics.items() if found.num_leaked},
            warnings=(
                *hub_notes(self._recipe.data, self._recipe.algorithm.kind),
                *warnings,
                *self._without_an_end(),
                *self._on_labels(),
            ),
            same_reward_tokenizer=all(reader.same for reader in self._readers.values()),
            same_value_tokenizer=self._same_value_tokenizer(),
            alike={name: astuple(found.alike) for name, found in statistics.items() if found.alike},
        )
        return loaded, None

    def _prepare(self) -> Generator[Preparing, None, None]:
        """Writes the ``init:`` models that are not there yet, loads tokenizers, functions and rows."""
        for start in self._starts.values():
            self._write_start(start, weights=self._weights)
        recipe = self._recipe
        stage("loading tokenizer and data")
        if recipe.algorithm.traits.sampled:  # brings torch: while the models load, not in the first iteration
            import_module("distft.workers.judging")
        main = "policy" if "policy" in self._starts else "reward"
        self._tokenizer = self._load_tokenizer(main)
        self._corruption = corruption_of(recipe.algorithm, self._tokenizer, recipe.data.max_length)
        self._readers = {role: self._reader(role) for role in filter(gives_scores, self._starts)}
        if recipe.models.reward is not None:
            self._rewards = text_rewards(recipe.models.reward)
        self._datasets = yield from prepare_datasets(
            recipe.data,
            recipe.algorithm.kind,
            self._tokenizer,
            self._store,
            loss_on=recipe.algorithm.learned_tokens(),
        )

    @property
    def lists(self) -> dict[str, TokenizedDataset]:
        """The lists that there are, by name, once it is set up."""
        found = {"train": self._datasets.train, "eval": self._datasets.eval, "test": self._datasets.test}
        return {name: dataset for name, dataset in found.items() if dataset}

    @property
    def tokenizer(self) -> Any:
        """That of the model that is the run's result, once it is set up."""
        return self._tokenizer

    def close(self) -> tuple[None, None]:
        """Nothing to leave."""
        return None, None

    # ---- samples

    def batch(self, split: str, start: int, count: int) -> tuple[Described, Batch]:
        """``count`` units from position ``start``: tokens ready to be trained on, and their lengths and units."""
        units = self._units(split, start, count)
        batch = self.learned(split, units, range(start, start + count) if split == "train" else units)
        described = _described(batch, self._tokenizer)
        if self._recipe.algorithm.traits.corrupts == "masks":  # what is read and what is learned are one text
            described = replace(described, lengths=tuple(batch.ragged("prompt_ids").lengths.tolist()))
        return described, batch

    def learned(self, split: str, units: Sequence[int], visits: Sequence[int]) -> Batch:
        """Those units as they are learned from at those visits of a list: a text that is corrupted is so anew at each.
        One that judges is always visited by its own number."""
        dataset = self._split(split)
        batch = dataset.batch(units)
        if labels := self._recipe.algorithm.head_labels():
            batch = batch.with_columns(label=numbers_of(dataset.class_names(units), labels))
        if self._corruption is not None:
            seeds = [derive(self._recipe.seed, "corruption", split, visit) for visit in visits]
            batch = corrupted(batch, self._corruption, seeds)
        if self._recipe.data.told_apart(split):
            batch = batch.with_columns(source=dataset.sources(units))
        return batch

    def prompts(self, split: str, start: int, count: int, samples_per_prompt: int) -> tuple[Described, Batch]:
        """``count`` prompts from position ``start``, each ``samples_per_prompt`` times.

        A sample is its own unit: no method needs the samples of a prompt in one micro-batch or optimizer step. What
        assigns credit sees the whole rollout, and knows them by their ``group``.
        """
        prompts = self._split(split).prompts(self._units(split, start, count))
        groups = np.repeat(np.arange(len(prompts), dtype=np.int64), samples_per_prompt)
        numbers = np.arange(len(groups), dtype=np.int64)
        batch = prompts.take(groups).with_columns(sample=numbers, unit=numbers, group=groups)
        return _described(batch, self._tokenizer), batch

    def questions(self, split: str, count: int) -> tuple[Described, Batch]:
        """See ``workers.held_out_answers``."""
        examples = self._split(split).rows(self._units(split, 0, count))
        start = self._starts["policy"]
        positions = learned_positions(start.path, trust_remote_code=start.trust_remote_code)
        found = questions(examples, encoder_for(self._tokenizer), positions, self._recipe)
        return _described(found, self._tokenizer), found

    def general_text(self) -> tuple[Described, Batch]:
        """The text of ``evaluation.general``, as it was found at the start."""
        return _described(self._general, self._tokenizer), self._general

    def judge_answers(self, split: str, count: int, limit: int, *, batch: Batch) -> tuple[Judged, None]:
        """Answers to prompts of ``count`` held-out units by ``evaluation.metrics``, the first ``limit`` in words.

        ``count`` as it was asked for: ``group`` numbers the rows within that sample, and a smaller one has others.
        """
        stage("held-out answers")
        examples = self._split(split).rows(self._units(split, 0, count))
        asked = [examples[place] for place in batch.dense("group").tolist()]
        metrics: dict[str, float] = {}
        if names := self._recipe.evaluation.metrics:
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
            rows.append(
                Sample(
                    self._tokenizer.decode(prompt),
                    response_text(self._tokenizer, prompt, response, ended=ended),
                    float(batch.dense("score")[index]) if "score" in batch else None,
                    side=names[index] or None,
                )
            )
        return rows, None

    # ---- experience

    def reward_inputs(
        self, role: str, split: str, start: int, samples_per_prompt: int, *, batch: Batch
    ) -> tuple[Described | None, Batch | None]:
        """The rollout as the reward model of that role saw texts when it was trained; None where it is so already.

        Where its tokenizer is not proven to be the policy's, the *text* is read anew, through the reward model's
        template: see ``read_anew``. Else only the ends are looked at: see ``as_trained``.
        """
        read: Batch | None
        reader = self._readers[role]
        if reader.same:
            plain, chat = plain_end(self._tokenizer), turn_end(self._tokenizer)
            examples = self._split(split).rows(self._units(split, start, len(batch) // samples_per_prompt))
            ends = [
                plain if isinstance(prompt_of(one), str) else chat
                for one in examples
                for _ in range(samples_per_prompt)
            ]
            read = as_trained(batch, ends, special_tokens(self._tokenizer))
        else:
            texts = self._prompts_and_completions(split, start, samples_per_prompt, batch)
            encoder, where = encoder_for(reader.tokenizer, role), f"sample of position {start}"
            read = read_anew(batch, *texts, encoder, where, reader.positions)
        if read is None:
            return None, None
        read = within_positions(read, reader.positions)
        return _described(read, reader.tokenizer), read

    def weigh_scores(self, *, batch: Batch) -> tuple[dict[str, float], Batch]:
        """Column ``score``, the weighted sum of what several reward models say, each in its own (``score_column``);
        reports each one's mean by name."""
        total = np.zeros(len(batch), np.float32)
        means: dict[str, float] = {}
        for role in self._readers:
            model, scores = self._recipe.models.of(role), batch.dense(score_column(role))
            assert isinstance(model, ScoringModel)
            means[f"rewards/{role.removeprefix(FURTHER)}"] = float(scores.astype(np.float64).mean())
            total += np.float32(model.weight) * scores
        return means, Batch({"sample": batch.dense("sample"), "score": total})

    def function_scores(
        self, split: str, start: int, samples_per_prompt: int, *, batch: Batch
    ) -> tuple[dict[str, float], Batch]:
        """Column ``function_score``, the weighted sum of reward functions and servers; reports each one's mean by name.

        A function is called as ``f(prompts, completions, **columns)`` and answers a number for each completion.
        Raises UserError, naming it, for an exception in it, a wrong number of answers, NaN or infinity.
        """
        stage("reward functions")
        prompts, completions = self._prompts_and_completions(split, start, samples_per_prompt, batch)
        texts = [p if isinstance(p, str) else [{"role": m.role, "content": m.content} for m in p] for p in prompts]
        extra = self._extra_columns(split, start, samples_per_prompt, len(batch))
        total = np.zeros(len(batch), np.float32)
        means: dict[str, float] = {}
        for reward in self._rewards:
            scores = reward.ask(texts, completions, extra)
            means[f"rewards/{reward.name}"] = float(scores.mean())
            total += reward.weight * scores
        return means, Batch({"sample": batch.dense("sample"), "function_score": total})

    def informative(self, at_most: int, first: int, *, batch: Batch) -> tuple[Described, Batch]:
        """See ``workers.informative``; ``score`` is what models and functions say together."""
        scored = self._with_score(batch).columns
        chosen = informative(Batch({n: c for n, c in scored.items() if n != "function_score"}), at_most, first)
        return _described(chosen, self._tokenizer), chosen

    def keep_responses(self, staging: str, *, batch: Batch) -> tuple[list[FileRecord | NotWritten], None]:
        """As ``rollout/ahead.safetensors``. A disk that refuses it is reported, and the run goes on."""
        try:
            write_batch(Path(staging) / KEPT_RESPONSES, batch)
            return [*record_files(Path(staging), [KEPT_RESPONSES])], None
        except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
            return [NotWritten(f"data worker: {error}")], None

    def kept_responses(self, checkpoint: str) -> tuple[Described, Batch]:
        """What ``keep_responses`` wrote."""
        batch = read_batch(Path(checkpoint) / KEPT_RESPONSES)
        return Described(tuple(batch.ragged("response_ids").lengths.tolist()), tuple(range(len(batch)))), batch

    def assign_credit(self, state: Mapping[str, Any], *, batch: Batch) -> tuple[Credited, Batch]:
        """See ``judged``. Model and function scores, where both are there, are added with their weights."""
        from distft.workers.judging import judged

        stage("advantages")
        return judged(self._with_score(batch), self._recipe.algorithm, state)

    def score_summary(self, *, batch: Batch) -> tuple[dict[str, float], None]:
        """Mean and deviation of the scores of a rollout, and its mean KL per sequence to the reference, if there is
        one, in nats."""
        scored = self._with_score(batch)
        scores = scored.dense("score").astype(np.float64)
        kl = {}
        if "ref_logprobs" in batch:
            apart = batch.ragged("old_logprobs").values.astype(np.float64) - batch.ragged("ref_logprobs").values
            kl = {"kl": float(apart.sum() / len(batch))}
        return {
            "score": float(scores.mean()),
            "score_std": float(scores.std()),
            **kl,
            "length": float(batch.ragged("response_ids").lengths.mean()),
            "ended": float(batch.dense("ended").mean()),
        }, None

    def mismatched(self, longest: int, *, batch: Batch) -> tuple[Described, Batch]:
        """See ``workers.kl_baseline``."""
        found = mismatched(batch, longest)
        return _described(found, self._tokenizer), found

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

    def _general_text(self) -> Batch:
        recipe = self._recipe
        assert recipe.evaluation.general is not None
        count, longest = recipe.evaluation.max_samples, longest_sequence(recipe)
        return general_text(recipe.evaluation.general, encoder_for(self._tokenizer), count, longest)

    def _split(self, split: str) -> TokenizedDataset:
        dataset = getattr(self._datasets, split)
        assert isinstance(dataset, TokenizedDataset), f"there is no {split} data"
        return dataset

    def _units(self, split: str, start: int, count: int) -> list[int]:
        """Of train by position; of a list that judges, always from its beginning, a sample over its sources."""
        dataset, seed = self._split(split), self._recipe.seed
        if split == "train":
            return dataset.epochs.units(start, count, seed, self._recipe.data.shuffle)
        return proportional_sample(dataset.source_sizes, start + count, seed)[start:]

    def _prompts_and_completions(
        self, split: str, start: int, samples_per_prompt: int, batch: Batch
    ) -> tuple[list[Any], list[str]]:
        examples = self._split(split).rows(self._units(split, start, len(batch) // samples_per_prompt))
        prompts = [prompt_of(example) for example in examples for _ in range(samples_per_prompt)]
        return prompts, self._completions(prompts, batch, [f"sample of position {start}"] * len(prompts))

    def _completions(self, prompts: Sequence[Content], batch: Batch, where: Sequence[str]) -> list[str]:
        prompt_ids, response_ids, ended = batch.ragged("prompt_ids"), batch.ragged("response_ids"), batch.dense("ended")
        return [
            answer_text(
                self._tokenizer, prompt, prompt_ids[row], response_ids[row], ended=bool(ended[row]), where=where[row]
            )
            for row, prompt in enumerate(prompts)
        ]

    def _extra_columns(self, split: str, start: int, samples_per_prompt: int, count: int) -> dict[str, list[Any]]:
        examples = self._split(split).rows(self._units(split, start, count // samples_per_prompt))
        names = sorted({name for example in examples for name in example.extra})
        return {
            name: [example.extra.get(name) for example in examples for _ in range(samples_per_prompt)] for name in names
        }

    def _with_score(self, batch: Batch) -> Batch:
        if "function_score" not in batch:
            return batch
        reward = self._recipe.models.reward
        weight = reward.weight if reward and not self._recipe.models.rewards else 1.0  # several are weighed already
        model = batch.dense("score") * weight if "score" in batch else 0.0
        return batch.with_columns(score=(batch.dense("function_score") + model).astype(np.float32))

    def _without_an_end(self) -> Iterator[str]:
        """A warning where conversations are trained on whose template ends none."""
        end = None if reads_both_ways(self._tokenizer) else turn_end(self._tokenizer)
        if end is None or not end.appended or self._recipe.algorithm.traits.sampled:
            return
        if not isinstance(prompt_of(self._datasets.train.rows([0])[0]), str):
            what = "the chat template ends a turn with no token of its own"
            eos = self._tokenizer.eos_token
            yield f"{what}: {eos} is put behind each conversation" if end.ids else f"{what}: no model learns to stop"

    def _on_labels(self) -> Iterator[str]:
        """What the method says of how many answers are labelled good and bad."""
        if self._recipe.algorithm.traits.unit == ANSWERS:
            train = self._datasets.train
            good = train.num_good
            yield from (
                f"data.train: {said}" for said in self._recipe.algorithm.on_labels(good, train.num_units - good)
            )

    def _require_known(self, datasets: Sequence[TokenizedDataset], start: Start) -> None:
        rows = embedding_rows(start.path, trust_remote_code=start.trust_remote_code)
        if rows is None:
            return
        for dataset in datasets:
            require_known(dataset, self._tokenizer, rows, kind=self._recipe.algorithm.kind, model=start.path)

    def _same_value_tokenizer(self) -> bool:
        """Whether the value model, where nobody said what it starts from, may start from the reward model.

        Raises UserError for a start that the recipe names for a model that reads the policy's tokens, and that numbers
        them otherwise.
        """
        for role in SAME_TOKENS:
            given = self._recipe.models.of(role) if role in self._starts else None
            if given is not None and (given.path or given.init):
                theirs = self._load_tokenizer(role).get_vocab()
                key = "path" if given.path else "init"
                require_policys_tokens(role, theirs, self._tokenizer.get_vocab(), key=key)
                if role == "value":
                    return True
        return "value" not in self._starts or tokenizers_equal(self._tokenizer, self._load_tokenizer("value"))

    def _reader(self, role: str) -> Reader:
        start, tokenizer = self._starts[role], self._load_tokenizer(role)
        positions = learned_positions(start.path, trust_remote_code=start.trust_remote_code)
        return Reader(tokenizer, tokenizers_equal(self._tokenizer, tokenizer), positions)

    def _load_tokenizer(self, role: str) -> Any:
        start = self._starts[role]
        return load_tokenizer(start.path, trust_remote_code=start.trust_remote_code, chat_template=start.chat_template)

    def _write_start(self, start: Start, *, weights: bool) -> None:
        """An ``init:`` model into its folder, complete or not at all; one that is there stays."""
        if start.init is None or Path(start.path).is_dir():
            return
        from distft.models.start import create_model  # brings torch, and the code of models

        stage(f"making {start.path}")
        sources = start.init.tokenizer.train_on or self._recipe.data.train
        bad = BadRows(self._recipe.data, "train")
        texts = (text for source in sources for text in corpus_texts(source, bad))
        tokenizer = train_tokenizer(
            texts, start.init.vocab_size, start.init.tokenizer.chat_template, reader=start.init.architecture
        )
        draft = Path(f"{start.path}.draft-{os.getpid()}")
        create_model(start.init, tokenizer, draft, seed=start.seed, weights=weights)
        draft.rename(start.path)


def _described(batch: Batch, tokenizer: Any) -> Described:
    """What the controller may know of a batch: numbers of tokens, and which samples belong together."""
    prompts = batch.ragged("prompt_ids").lengths
    answers = batch.ragged("response_ids").lengths if "response_ids" in batch else np.zeros_like(prompts)
    return Described(
        tuple((prompts + answers).tolist()),
        tuple(batch.dense("unit").tolist()),
        tuple(answers.tolist()) if reads_apart(tokenizer) else (),
    )
