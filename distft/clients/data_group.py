"""The data worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distft.batches import Difference
from distft.checkpoint.manifest import FileRecord, NotWritten
from distft.clients.asking import ask, rows
from distft.clients.generator_group import Generated
from distft.clients.samples import Samples, data_of, report_of
from distft.groups.handles import Call, DataRef, Group, Result
from distft.tracking.metrics import Sample
from distft.workers.reports import Credited, Described, Judged, Loaded, Played, RowsPrepared, StepRows, Turned, Unread
from distft.workers.verbs import DataVerbs


@dataclass(frozen=True)
class DataGroup:
    """The data worker. Every method is a call that is not started yet: see ``groups.handles``."""

    ranks: Group

    def prepare_rows(self, seconds: float) -> Call[RowsPrepared]:
        """Tokenises what is not tokenised yet, for about so long."""
        return ask(self.ranks, DataVerbs.prepare_rows, seconds).reading(report_of)

    def setup(self) -> Call[Loaded]:
        """Loads what is left; what there is."""
        return ask(self.ranks, DataVerbs.setup).reading(report_of)

    # ---- samples

    def batch(self, split: str, start: int, count: int) -> Call[Samples]:
        """``count`` units of a split from position ``start``, ready to be trained on."""
        return ask(self.ranks, DataVerbs.batch, split, start, count).reading(Samples.of)

    def unread(self, until: int, at_most: int) -> Call[tuple[Samples, Unread]]:
        """At most so many units, of those before position ``until`` and those that judge, of which no log-probs of the
        reference are kept; there may be none for now."""

        def read(result: Result[Unread]) -> tuple[Samples, Unread]:
            found = result.report
            there = Samples.described((data_of(result),), found.rows) if found.rows.lengths else Samples((), (), ())
            return there, found

        return ask(self.ranks, DataVerbs.unread, until, at_most).reading(read)

    def keep_reference(self, data: Sequence[DataRef]) -> Call[None]:
        """Keeps column ``ref_logprobs`` of what ``unread`` gave."""
        return ask(self.ranks, DataVerbs.keep_reference, batch=rows(data)).reading(report_of)

    def prompts(self, split: str, start: int, count: int, samples_per_prompt: int) -> Call[Samples]:
        """``count`` prompts of a split from position ``start``, each so many times."""
        return ask(self.ranks, DataVerbs.prompts, split, start, count, samples_per_prompt).reading(Samples.of)

    def questions(self, split: str, count: int) -> Call[Samples]:
        """The prompts of the first ``count`` held-out units that can be answered; there may be none."""
        return ask(self.ranks, DataVerbs.questions, split, count).reading(_some)

    def own_prompts(self, start: int, count: int) -> Call[Samples]:
        """The prompts of ``count`` rows of train from position ``start`` that leave room for an answer; there may be
        none."""
        return ask(self.ranks, DataVerbs.own_prompts, start, count).reading(_some)

    def general_text(self) -> Call[Samples]:
        """The text of ``evaluation.general``."""
        return ask(self.ranks, DataVerbs.general_text).reading(Samples.of)

    def rejected_answers(self, split: str, count: int) -> Call[Samples]:
        """Of those of ``count`` held-out units that are pairs the rejected answers; there may be none."""
        return ask(self.ranks, DataVerbs.rejected_answers, split, count).reading(_some)

    def judge_answers(self, split: str, count: int, limit: int, data: Sequence[DataRef]) -> Call[Judged]:
        """Answers to prompts of ``count`` held-out units by ``evaluation.metrics``, the first ``limit`` in words."""
        return ask(self.ranks, DataVerbs.judge_answers, split, count, limit, batch=rows(data)).reading(report_of)

    def texts(self, limit: int, data: Sequence[DataRef]) -> Call[list[Sample]]:
        """The first ``limit`` samples of a rollout as people read them."""
        return ask(self.ranks, DataVerbs.texts, limit, batch=rows(data)).reading(report_of)

    # ---- turns

    def begin_turns(self, split: str, start: int, samples_per_prompt: int, data: Sequence[DataRef]) -> Call[None]:
        """Environments for a rollout of the prompts from position ``start``."""
        asked = ask(self.ranks, DataVerbs.begin_turns, split, start, samples_per_prompt, batch=rows(data))
        return asked.reading(report_of)

    def take_turns(self, responses: Sequence[DataRef]) -> Call[Samples]:
        """What the environments say of a turn: the samples that go on, each its own unit; there may be none."""

        def read(result: Result[Turned]) -> Samples:
            data = () if result.data is None else (result.data,)
            return Samples(data, result.report.lengths, result.report.samples)

        return ask(self.ranks, DataVerbs.take_turns, batch=rows(responses)).reading(read)

    def finish_turns(self, version: int, seconds: float) -> Call[Generated]:
        """All responses, which weights of that version wrote in so many seconds."""

        def read(result: Result[Played]) -> Generated:
            told = result.report
            lengths = dict(zip(told.samples, told.lengths, strict=True))
            return Generated(data_of(result), lengths, version, seconds, told.num_observed, told.metrics)

        return ask(self.ranks, DataVerbs.finish_turns).reading(read)

    # ---- experience

    def reward_inputs(
        self, rollout: Samples, role: str, split: str, start: int, samples_per_prompt: int
    ) -> Call[Samples]:
        """The rollout as the reward model of that role reads it: itself, where that is in the same tokens with the
        same ends."""

        def read(result: Result[Described | None]) -> Samples:
            found = result.report
            return rollout if found is None else Samples.described((data_of(result),), found)

        asked = ask(
            self.ranks, DataVerbs.reward_inputs, role, split, start, samples_per_prompt, batch=rows(rollout.data)
        )  # fmt: skip
        return asked.reading(read)

    def function_scores(
        self, rollout: Samples, split: str, start: int, samples_per_prompt: int
    ) -> Call[tuple[dict[str, float], DataRef]]:
        """The reward functions' means by name, and their weighted sum as column ``function_score``."""
        return ask(
            self.ranks, DataVerbs.function_scores, split, start, samples_per_prompt, batch=rows(rollout.data)
        ).reading(lambda result: (result.report, data_of(result)))

    def weigh_scores(self, data: Sequence[DataRef]) -> Call[tuple[dict[str, float], DataRef]]:
        """The means of several reward models' scores by name, and their weighted sum as column ``score``."""
        return ask(self.ranks, DataVerbs.weigh_scores, batch=rows(data)).reading(
            lambda result: (result.report, data_of(result))
        )

    def informative(self, at_most: int, first: int, data: Sequence[DataRef]) -> Call[Samples]:
        """Of a scored rollout the samples of the first prompts whose scores differ, numbered on from ``first``; there
        may be none."""
        return ask(self.ranks, DataVerbs.informative, at_most, first, batch=rows(data)).reading(_some)

    def keep_responses(self, staging: str, responses: DataRef) -> Call[tuple[FileRecord | NotWritten, ...]]:
        """Responses into the checkpoint that is being written there: its file."""
        asked = ask(self.ranks, DataVerbs.keep_responses, staging, batch=rows([responses]))
        return asked.reading(lambda result: tuple(result.report))

    def keep_step(self, folder: str, rows_of_step: StepRows, data: Sequence[DataRef]) -> Call[str]:
        """A step's samples into a folder of their own; why not, "" where all went well."""
        return ask(self.ranks, DataVerbs.keep_step, folder, rows_of_step, batch=rows(data)).reading(report_of)

    def kept_responses(self, checkpoint: str, version: int, seconds: float) -> Call[Generated]:
        """Those that a checkpoint keeps, which weights of that version wrote."""

        def read(result: Result[Described]) -> Generated:
            return Generated(data_of(result), dict(enumerate(result.report.lengths)), version, seconds)

        return ask(self.ranks, DataVerbs.kept_responses, checkpoint).reading(read)

    def assign_credit(self, state: Mapping[str, Any], data: Sequence[DataRef]) -> Call[tuple[Credited, DataRef]]:
        """What is said of a rollout with all its columns, and the columns of what its tokens are worth."""
        return ask(self.ranks, DataVerbs.assign_credit, dict(state), batch=rows(data)).reading(
            lambda result: (result.report, data_of(result))
        )

    def with_texts(self, start: int, count: int, data: Sequence[DataRef]) -> Call[Samples]:
        """Samples that the policy learns from, and behind them ``count`` rows of ``data.ptx`` from position
        ``start``."""
        return ask(self.ranks, DataVerbs.with_texts, start, count, batch=rows(data)).reading(Samples.of)

    def score_summary(self, data: Sequence[DataRef]) -> Call[dict[str, float]]:
        """Means over a scored rollout."""
        return ask(self.ranks, DataVerbs.score_summary, batch=rows(data)).reading(report_of)

    def mismatched(self, answers: Samples, longest: int) -> Call[Samples]:
        """The prompts of given answers, each with another row's answer, cut to ``longest`` tokens in all."""
        return ask(self.ranks, DataVerbs.mismatched, longest, batch=rows(answers.data[:1])).reading(Samples.of)

    def kl_baseline(self, data: Sequence[DataRef]) -> Call[DataRef]:
        """Column ``baseline`` for the answers of a step, of what is said of their mismatched ones."""
        return ask(self.ranks, DataVerbs.kl_baseline, batch=rows(data)).reading(data_of)

    def logprob_difference(self, one: str, other: str, data: Sequence[DataRef]) -> Call[Difference]:
        """How far two token columns are apart over the trained tokens."""
        return ask(self.ranks, DataVerbs.logprob_difference, one, other, batch=rows(data)).reading(report_of)


def _some(result: Result[Described]) -> Samples:
    """Samples, of which there may be none."""
    return Samples.of(result) if result.report.lengths else Samples((), (), ())
