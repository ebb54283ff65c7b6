"""What a run learns from, loaded and checked: rows, tokenizers, reward functions."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import astuple
from importlib import import_module
from pathlib import Path
from typing import Any

from distft.batches import Batch
from distft.common.logging import stage
from distft.common.seeding import derive
from distft.config.data import PTX_KIND
from distft.config.method import ANSWERS
from distft.config.new_tokens import new_tokens
from distft.config.recipe import Recipe
from distft.config.role_table import SAME_TOKENS, gives_scores
from distft.config.roles import answers_in_training, longest_sequence, longest_text
from distft.data.class_labels import numbers_of
from distft.data.corruption import corrupted, corruption_of
from distft.data.dataset import Preparing, prepare_datasets
from distft.data.encode_apart import encoder_for
from distft.data.formats import prompt_of
from distft.data.known_tokens import require_known
from distft.data.reading_marks import reads_both_ways
from distft.data.sampler import proportional_sample
from distft.data.sources import hub_notes, is_builtin
from distft.data.splits import LIST_NAMES
from distft.data.store import store_folder
from distft.data.token_counts import occurrences
from distft.data.tokenized import TokenizedDataset
from distft.data.tokenizer_training import tokenizers_equal
from distft.data.turn_end import turn_end
from distft.data.vocabulary import require_policys_tokens, require_rows
from distft.data.whole_units import require_whole
from distft.models.limits import embedding_rows, learned_positions
from distft.models.tokenizer import load_tokenizer, num_tokens
from distft.tracking.data_alarms import Drift
from distft.workers.drift import drift
from distft.workers.episodes import Episodes
from distft.workers.general_text import general_text
from distft.workers.held_out_answers import require_answers
from distft.workers.own_prompts import require_prompts, require_room
from distft.workers.ptx import data_of_texts, with_contents
from distft.workers.reports import Loaded
from distft.workers.reward_functions import TextReward, text_rewards
from distft.workers.reward_reading import Reader
from distft.workers.spec import Start
from distft.workers.starting import extend_start, write_init
from distft.workers.tails import Tails
from distft.workers.trying_out import tried_out

log = logging.getLogger(__name__)

_SHOWN = 8


class RunData:
    """The rows of a run by list, and what reads them. ``starts`` says where each role's model begins.

    Attributes that there are once it is prepared: ``tokenizer`` of the model that is the run's result, ``readers`` by
    role of those that give scores, ``rewards``: functions and servers; and once it is checked ``general``, the text of
    ``evaluation.general``.
    """

    def __init__(
        self, *, recipe: Recipe, starts: Mapping[str, Start], weights: bool = True, store: Path | None = None,
        tries_out: bool = True,
    ) -> None:  # fmt: skip
        """``weights``: whether models that the run makes get any; without, there is enough for everything that is done
        here. ``store`` of the tokenised rows, by default where the recipe says. ``tries_out``: whether judges and
        environments are asked about a row beforehand."""
        self.recipe = recipe
        self.starts = dict(starts)
        self._weights, self._tries_out = weights, tries_out
        self._store = store or store_folder(recipe.data.cache_dir, recipe.output_dir)
        self.rewards: list[TextReward] = []
        self.episodes: Episodes | None = None
        self.tails: Tails | None = None

    def prepare(self) -> Generator[Preparing, None, None]:
        """Writes the models that the run makes and that are not there yet, loads tokenizers, functions and rows."""
        self._warnings = list(self._make_starts())
        recipe = self.recipe
        stage("loading tokenizer and data")
        if recipe.algorithm.traits.sampled:  # brings torch: while the models load, not in the first iteration
            import_module("distft.workers.judging")
        self.tokenizer = self._load_tokenizer(self._main)
        self._corruption = corruption_of(recipe.algorithm, self.tokenizer, recipe.data.max_length)
        self.readers = {role: self._reader(role) for role in filter(gives_scores, self.starts)}
        if recipe.models.reward is not None:
            self.rewards = text_rewards(recipe)
        if recipe.rollout.environment is not None:
            self.episodes = Episodes(recipe.rollout, self.tokenizer)
        if recipe.rollout.cut_tails is not None:
            self.tails = Tails(recipe.rollout, self.tokenizer)
        beside = yield from self._prepare_texts()
        preparing = prepare_datasets(
            recipe.data,
            recipe.algorithm.kind,
            self.tokenizer,
            self._store,
            loss_on=recipe.algorithm.learned_tokens(),
        )
        self._datasets = yield from with_contents(preparing, lambda contents: {**contents, **beside})

    def check(self) -> Loaded:
        """That everything fits together, once it is prepared; what there is. Raises UserError."""
        texts = [] if self._texts is None else [self._texts]
        self._require_known([*self.lists.values(), *texts], self.starts[self._main])
        if self.recipe.algorithm.telling() is not None:
            policy = self.recipe.models.policy
            extended = policy is not None and policy.extend_vocabulary is not None
            for role, start in self.starts.items():
                rows = embedding_rows(start.path, trust_remote_code=start.trust_remote_code)
                own_tokens = num_tokens(self._load_tokenizer(role)) if extended and role != "policy" else None
                require_rows(role, num_tokens(self.tokenizer), rows, own_tokens=own_tokens)
        if self.episodes is not None:
            self.episodes.check([dataset.rows([0])[0] for dataset in self.lists.values() if dataset.num_units])
        require_whole(self.lists, self.recipe.algorithm)
        require_answers(self.recipe, self.lists)
        if answers_in_training(self.recipe):
            encoder = encoder_for(self.tokenizer)
            require_prompts(self._datasets.train, encoder)
            longest, new_tokens = longest_sequence(self.recipe), self.recipe.rollout.max_new_tokens
            require_room(self._datasets.train, encoder, longest, new_tokens)
        if self.recipe.evaluation.general is not None:
            self.general = self._general_text()
        if labels := self._class_labels:
            for dataset in self.lists.values():
                numbers_of(dataset.class_names(range(dataset.num_units)), labels)
        first = self._datasets.train.rows([0])[0]
        statistics = {name: dataset.statistics for name, dataset in self.lists.items()}
        if self._texts is not None:
            statistics["ptx"] = self._texts.statistics
        for name, found in statistics.items():
            for bad in found.bad:
                log.info("left out of data.%s: %s: %s (hash %s)", name, bad.where, bad.what, bad.digest)
        warnings = [f"data.{name}: {text}" for name, found in statistics.items() for text in found.warnings]
        return Loaded(
            num_units={name: self.lists[name].epochs.num_units if name in self.lists else 0 for name in LIST_NAMES},
            statistics={name: str(found) for name, found in statistics.items()},
            leaked={name: found.num_leaked for name, found in statistics.items() if found.num_leaked},
            warnings=(
                *self._warnings,
                *hub_notes(self.recipe.data, self.recipe.algorithm.kind),
                *warnings,
                *self._without_an_end(),
                *self._on_labels(),
                *self._on_new_tokens(),
                *(tried_out(first, self.rewards, self.episodes) if self._tries_out else ()),
            ),
            same_reward_tokenizer=all(reader.same for reader in self.readers.values()),
            same_value_tokenizer=self._same_value_tokenizer(),
            alike={name: astuple(found.alike) for name, found in statistics.items() if found.alike},
            drifts=self._drifts(),
        )

    def _drifts(self) -> dict[str, Drift]:
        """How far each list that judges is from train; not where that is made of a few templates and split by what they
        speak of."""
        if all(map(is_builtin, self.recipe.data.train)):
            return {}
        prompts = self.recipe.algorithm.traits.unit.name == "prompts"
        found = {
            name: drift(self._datasets.train, dataset, prompts=prompts)
            for name, dataset in self.lists.items()
            if name != "train"
        }
        return {name: one for name, one in found.items() if one is not None}

    def _prepare_texts(self) -> Generator[Preparing, None, dict[str, str]]:
        """The rows of ``data.ptx``, if any, read as SFT reads them. Returns the hash of each source by its key."""
        self._texts: TokenizedDataset | None = None
        beside: dict[str, str] = {}
        if not self.recipe.data.ptx:
            return beside
        preparing = prepare_datasets(data_of_texts(self.recipe), PTX_KIND, self.tokenizer, self._store)
        # All contents are said at once, with those of the other lists.
        found = yield from with_contents(preparing, beside.update)
        self._texts = found.train
        log.info("data.ptx: %s", found.train.statistics)
        return {key.replace("data.train.", "data.ptx.", 1): digest for key, digest in beside.items()}

    def texts(self, start: int, count: int) -> Batch:
        """``count`` rows of ``data.ptx`` from position ``start``, by epochs."""
        assert self._texts is not None, "there is no ptx data"
        seed = derive(self.recipe.seed, "ptx")
        return self._texts.batch(self._texts.epochs.units(start, count, seed, self.recipe.data.shuffle))

    @property
    def lists(self) -> dict[str, TokenizedDataset]:
        """The lists that there are, by name, once it is set up."""
        found = {"train": self._datasets.train, "eval": self._datasets.eval, "test": self._datasets.test}
        return {name: dataset for name, dataset in found.items() if dataset}

    def split(self, split: str) -> TokenizedDataset:
        """The list of that name, which must be there."""
        dataset = getattr(self._datasets, split)
        assert isinstance(dataset, TokenizedDataset), f"there is no {split} data"
        return dataset

    def units(self, split: str, start: int, count: int) -> list[int]:
        """Numbers of ``count`` units from position ``start``: of train by epochs; of a list that judges, always from
        its beginning, of a sample over its sources."""
        dataset, seed = self.split(split), self.recipe.seed
        if split == "train":
            return dataset.epochs.units(start, count, seed, self.recipe.data.shuffle)
        return proportional_sample(dataset.source_sizes, start + count, seed)[start:]

    def learned(self, split: str, units: Sequence[int], visits: Sequence[int]) -> Batch:
        """Those units as they are learned from at those visits of a list: a text that is corrupted is so anew at each.
        One that judges is always visited by its own number."""
        dataset = self.split(split)
        batch = dataset.batch(units)
        if labels := self._class_labels:
            batch = batch.with_columns(label=numbers_of(dataset.class_names(units), labels))
        if self._corruption is not None:
            seeds = [derive(self.recipe.seed, "corruption", split, visit) for visit in visits]
            batch = corrupted(batch, self._corruption, seeds)
        if self.recipe.data.told_apart(split):
            batch = batch.with_columns(source=dataset.sources(units))
        return batch

    def new_tokens_in(self, split: str) -> dict[str, int]:
        """How often each token that the recipe adds to the vocabulary occurs in that list; see ``occurrences``."""
        model = self.recipe.models.of(self._main)
        if model is None or model.extend_vocabulary is None:
            return {}
        vocabulary = self.tokenizer.get_vocab()
        texts = new_tokens(model.extend_vocabulary, f"models.{self._main}.extend_vocabulary")
        numbers = {text: vocabulary[text] for text in texts if text in vocabulary}
        return occurrences(self.split(split), numbers, self.recipe.algorithm.kind)

    # ---- inside

    @property
    def _main(self) -> str:
        """The role of the run's result."""
        return "policy" if "policy" in self.starts else "reward"

    def _on_new_tokens(self) -> Iterator[str]:
        """Those that nothing is learned of."""
        never = [text for text, count in self.new_tokens_in("train").items() if not count]
        if never:
            shown = ", ".join(map(repr, never[:_SHOWN])) + (", ..." if len(never) > _SHOWN else "")
            what = f"{len(never)} of the new tokens occur in no row of data.train that was looked into ({shown})"
            yield f"models.{self._main}.extend_vocabulary: {what}: nothing is learned of them"

    @property
    def _class_labels(self) -> tuple[str, ...]:
        """The labels of a classifier, which its rows name."""
        algorithm = self.recipe.algorithm
        return algorithm.head_labels() if algorithm.traits.classifies else ()

    def _general_text(self) -> Batch:
        recipe = self.recipe
        assert recipe.evaluation.general is not None
        count, longest = recipe.evaluation.max_samples, longest_text(recipe)
        return general_text(recipe.evaluation.general, encoder_for(self.tokenizer), count, longest)

    def _without_an_end(self) -> Iterator[str]:
        """A warning where conversations are trained on whose template ends none."""
        end = None if reads_both_ways(self.tokenizer) else turn_end(self.tokenizer)
        if end is None or not end.appended or self.recipe.algorithm.traits.sampled:
            return
        if not isinstance(prompt_of(self._datasets.train.rows([0])[0]), str):
            what = "the chat template ends a turn with no token of its own"
            eos = self.tokenizer.eos_token
            yield f"{what}: {eos} is put behind each conversation" if end.ids else f"{what}: no model learns to stop"

    def _on_labels(self) -> Iterator[str]:
        """What the method says of how many answers are labelled good and bad."""
        if self.recipe.algorithm.traits.unit == ANSWERS:
            train = self._datasets.train
            good = train.num_good
            yield from (f"data.train: {said}" for said in self.recipe.algorithm.on_labels(good, train.num_units - good))

    def _require_known(self, datasets: Sequence[TokenizedDataset], start: Start) -> None:
        rows = embedding_rows(start.path, trust_remote_code=start.trust_remote_code)
        if rows is None:
            return
        for dataset in datasets:
            require_known(dataset, self.tokenizer, rows, kind=self.recipe.algorithm.kind, model=start.path)

    def _same_value_tokenizer(self) -> bool:
        """Whether the value model, where nobody said what it starts from, may start from the reward model.

        Raises UserError for a start that the recipe names for a model that reads the policy's tokens, and that numbers
        them otherwise.
        """
        for role in SAME_TOKENS:
            given = self.recipe.models.of(role) if role in self.starts else None
            if given is not None and (given.path or given.init):
                theirs = self._load_tokenizer(role).get_vocab()
                key = "path" if given.path else "init"
                require_policys_tokens(role, theirs, self.tokenizer.get_vocab(), key=key)
                if role == "value":
                    return True
        return "value" not in self.starts or tokenizers_equal(self.tokenizer, self._load_tokenizer("value"))

    def _reader(self, role: str) -> Reader:
        start, tokenizer = self.starts[role], self._load_tokenizer(role)
        positions = learned_positions(start.path, trust_remote_code=start.trust_remote_code)
        return Reader(tokenizer, tokenizers_equal(self.tokenizer, tokenizer), positions)

    def _load_tokenizer(self, role: str) -> Any:
        start = self.starts[role]
        return load_tokenizer(start.path, trust_remote_code=start.trust_remote_code, chat_template=start.chat_template)

    def _make_starts(self) -> Iterator[str]:
        """Writes the models that the run makes itself and that are not there yet. Yields warnings."""
        made = {start.path: (role, start) for role, start in reversed(self.starts.items())}
        for role, start in made.values():
            if start.init is not None:
                write_init(start, start.init, self.recipe, weights=self._weights)
            elif start.extends and (warning := extend_start(start, role, self.recipe, weights=self._weights)):
                yield warning
