"""Every verb of the workers, with its signature. No torch: the driver asks by these.

A verb returns ``(report, columns)``; the columns stay in the object store. ``ModelWorker``, ``GeneratorWorker``,
``EngineWorker`` and ``DataWorker`` derive from these classes, the clients (`distft.clients`) ask for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from distft.batches import Batch, Difference
from distft.checkpoint.manifest import FileRecord, NotWritten
from distft.common.verb import Ending, OnDevice, verb
from distft.rollout.generator import Sampling
from distft.tracking.metrics import Sample
from distft.workers.reports import (
    Answers,
    Credited,
    Described,
    EngineReady,
    Judged,
    Loaded,
    Memory,
    Played,
    Ready,
    RowsPrepared,
    Saved,
    Sent,
    StepRows,
    Synced,
    Turned,
    Unread,
    Updated,
)

MicroBatches: TypeAlias = Sequence[Sequence[int]]  # numbers of samples; an empty one is a dummy
Store: TypeAlias = tuple[str, int]  # host and port where the ranks of a group meet
ReadAt: TypeAlias = Literal["tokens", "last"]


class ModelVerbs(OnDevice, Protocol):
    """One rank of a model role. Every verb is collective, but for those of the first rank alone."""

    # ---- life

    @verb(ranks="first", on_device=False)
    def host_store(self) -> tuple[Store, None]:
        """Opens the group's meeting point on this rank."""
        ...

    @verb(deadline="setup", states=True)
    def setup(self, store: Store, path: str, new_head: bool) -> tuple[Ready, None]:
        """Joins the group and builds the sharded model from ``path``, a folder or hub name.

        ``new_head`` allows a scalar head to be started where the weights have none.
        """
        ...

    @verb(on_device=False)
    def held(self) -> tuple[Memory, None]:
        """What this rank holds now."""
        ...

    # ---- computing

    @verb()
    def forward(
        self,
        column: str,
        micro_batches: MicroBatches,
        *,
        batch: Batch,
        temperature: float = 1.0,
        entropy: bool = False,
        reads: ReadAt = "tokens",
        adapters: bool = True,
    ) -> tuple[None, Batch]:
        """An evaluation pass: log-probs, values (``reads`` "tokens") or one scalar a sample ("last").

        Without ``adapters`` it is the frozen base that answers.
        The result has the samples of ``batch`` and the columns ``column`` and, if asked, ``entropy``.
        """
        ...

    @verb()
    def distributions(
        self, top_k: int | None, micro_batches: MicroBatches, *, batch: Batch, temperature: float = 1.0
    ) -> tuple[None, Batch]:
        """What a teacher tells of each token: ``teacher_logprobs`` of its ``top_k`` likeliest next tokens
        ``teacher_ids`` and of all others together; None: of all."""
        ...

    @verb(states=True)
    def update(
        self,
        loss: str,
        parameters: Mapping[str, Any],
        first_step: int,
        total_steps: int,
        steps: Sequence[MicroBatches],
        *,
        batch: Batch,
        temperature: float = 1.0,
        target_kl: float | None = None,
        num_sources: int = 0,
        max_skipped_steps: int = 0,
        skipped_in_a_row: int = 0,
    ) -> tuple[Updated, None]:
        """Optimizer steps ``first_step ...`` of ``total_steps`` with the loss of that address.

        With ``target_kl`` the rest is left out after a step whose ``policy/approxkl_avg`` exceeds it. Steps that
        come out as no number are left out in ``max_skipped_steps`` batches in a row at most; ``skipped_in_a_row``:
        batches before this one.
        """
        ...

    @verb(reports="first")
    def evaluate(
        self, loss: str, parameters: Mapping[str, Any], micro_batches: MicroBatches, *, batch: Batch,
        num_sources: int = 0,
    ) -> tuple[dict[str, float], None]:  # fmt: skip
        """The loss and its metrics on held-out samples, without training."""
        ...

    # ---- keeping

    @verb(deadline="long", states=True)
    def save(self, staging: str) -> tuple[list[FileRecord | NotWritten], None]:
        """This rank's share of a checkpoint; see ``saving.save_share``."""
        ...

    @verb(deadline="long", states=True)
    def copy(self, folder: str) -> tuple[tuple[str, ...] | NotWritten, None]:
        """As ``save``, into a folder in the node's memory: the paths of this rank's files below it."""
        ...

    @verb(deadline="long", states=True)
    def begin_save(self, staging: str) -> tuple[None, None]:
        """As ``save``, but the files are written while the verbs that follow run: see ``saving.BackgroundSave``."""
        ...

    @verb(on_device=False)
    def save_ended(self) -> tuple[bool, None]:
        """Whether what ``begin_save`` began has been written, or could not be."""
        ...

    @verb(deadline="setup", on_device=False)
    def finish_save(self) -> tuple[Saved, None]:
        """What became of it, waited for."""
        ...

    @verb(deadline="setup", states=True)
    def load(self, checkpoint: str) -> tuple[None, None]:
        """What ``save`` wrote, on any number of ranks."""
        ...

    @verb(deadline="long")
    def write_weights(self, folder: str) -> tuple[None, None]:
        """All weights into a folder, for another group to take over."""
        ...

    @verb(deadline="long")
    def take_weights(self, folder: str, share: float) -> tuple[None, None]:
        """A share of the weights that lie there, and the rest of its own."""
        ...

    @verb(deadline="setup", ranks="first", on_device=False)
    def check_export(self) -> tuple[None, None]:
        """What ``export`` will write can be read again. Raises UserError: before the first step, not after the last."""
        ...

    @verb(deadline="long", reports="first")
    def export(self, folder: str) -> tuple[None, None]:
        """A plain Hugging Face folder of the result; see ``exporting.export_result``."""
        ...


class GeneratorVerbs(ModelVerbs, Protocol):
    """One rank of a policy that answers prompts too."""

    @verb()
    def sync_weights(self, version: int) -> tuple[Synced, None]:
        """The current weights into this rank's generator, which from then on answers with ``version``."""
        ...

    @verb(deadline="long")
    def generate(
        self, sampling: Sampling, seed: int, iteration: int, micro_batches: MicroBatches, *, batch: Batch
    ) -> tuple[Answers, Batch]:
        """Responses to the prompts of ``batch``."""
        ...

    @verb(deadline="long")
    def send_weights(self, num_generators: int, version: int, channel: int = 0) -> tuple[Sent, None]:
        """The current weights, as ``version``, to generators that are processes of their own and receive them now.
        ``channel``: the number of the one between them, another one where the generators are not the same any more."""
        ...


class EngineVerbs(OnDevice, Protocol):
    """A generator that is a process of its own, with a whole copy of the policy's weights. Ranks of such a group know
    nothing of each other."""

    @verb(deadline="setup", recalled="latest")
    def setup(self, path: str) -> tuple[EngineReady, None]:
        """Builds the engine for the model at ``path``, a folder or hub name."""
        ...

    @verb(deadline="long", recalled="renewed")
    def receive_weights(self, store: Store, version: int, channel: int = 0) -> tuple[Sent, None]:
        """What the policy sends as ``version``. ``store``: where the policy's ranks met; ``channel``: as it sends."""
        ...

    @verb(deadline="long")
    def generate(
        self, sampling: Sampling, seed: int, iteration: int, micro_batches: MicroBatches, *, batch: Batch
    ) -> tuple[Answers, Batch]:
        """Responses to the prompts of ``batch``, all of them handed over at once."""
        ...


class DataVerbs(Ending, Protocol):
    """The data worker, a process of its own. A position counts the units of a split, see ``data.sampler``."""

    @verb(deadline="setup", on_device=False)
    def prepare_rows(self, seconds: float) -> tuple[RowsPrepared, None]:
        """Gets ready for about so long. Calls of this before ``setup`` keep that within its deadline."""
        ...

    @verb(deadline="setup", on_device=False, recalled="latest")
    def setup(self) -> tuple[Loaded, None]:
        """What ``prepare_rows`` has left over; reports sizes."""
        ...

    # ---- samples

    @verb(on_device=False)
    def batch(self, split: str, start: int, count: int) -> tuple[Described, Batch]:
        """``count`` units from position ``start``: tokens ready to be trained on."""
        ...

    @verb(deadline="setup", on_device=False, recalled="latest")
    def unread(self, until: int, at_most: int) -> tuple[Unread, Batch]:
        """At most so many units of which no log-probs of the reference are kept; see ``workers.reference_cache``."""
        ...

    @verb(deadline="long", on_device=False)
    def keep_reference(self, *, batch: Batch) -> tuple[None, None]:
        """Keeps column ``ref_logprobs`` of what ``unread`` gave."""
        ...

    @verb(on_device=False)
    def prompts(self, split: str, start: int, count: int, samples_per_prompt: int) -> tuple[Described, Batch]:
        """``count`` prompts from position ``start``, each ``samples_per_prompt`` times."""
        ...

    @verb(on_device=False)
    def questions(self, split: str, count: int) -> tuple[Described, Batch]:
        """The prompts of the first ``count`` held-out units that can be answered; there may be none."""
        ...

    @verb(on_device=False)
    def own_prompts(self, start: int, count: int) -> tuple[Described, Batch]:
        """The prompts of ``count`` rows of train from position ``start`` that leave room for an answer; there may be
        none."""
        ...

    @verb(on_device=False)
    def general_text(self) -> tuple[Described, Batch]:
        """The text of ``evaluation.general``, ready to be evaluated."""
        ...

    @verb(on_device=False)
    def rejected_answers(self, split: str, count: int) -> tuple[Described, Batch]:
        """Of those of ``count`` held-out units that are pairs the rejected answers; there may be none."""
        ...

    @verb(deadline="long", on_device=False)
    def judge_answers(self, split: str, count: int, limit: int, *, batch: Batch) -> tuple[Judged, None]:
        """Answers to prompts of ``count`` held-out units by ``evaluation.metrics``, the first ``limit`` in words."""
        ...

    @verb(on_device=False)
    def texts(self, limit: int, *, batch: Batch) -> tuple[list[Sample], None]:
        """The first ``limit`` samples in words."""
        ...

    # ---- turns

    @verb(deadline="long", on_device=False, recalled="begins")
    def begin_turns(self, split: str, start: int, samples_per_prompt: int, *, batch: Batch) -> tuple[None, None]:
        """A fresh environment for each sample, or with ``rollout.cut_tails`` an empty response; what a former rollout
        left is forgotten."""
        ...

    @verb(deadline="long", on_device=False, recalled="follows")
    def take_turns(self, *, batch: Batch) -> tuple[Turned, Batch | None]:
        """A turn of the policy, which the environment answers, or a part of its responses. The samples that go on, and
        what with."""
        ...

    @verb(on_device=False, recalled="ends")
    def finish_turns(self) -> tuple[Played, Batch]:
        """The responses of all samples that were begun; those to an environment masked and scored."""
        ...

    # ---- experience

    @verb(on_device=False)
    def reward_inputs(
        self, role: str, split: str, start: int, samples_per_prompt: int, *, batch: Batch
    ) -> tuple[Described | None, Batch | None]:
        """The rollout as the reward model of that role saw texts when it was trained; None where it is so already."""
        ...

    @verb(deadline="long", on_device=False)
    def function_scores(
        self, split: str, start: int, samples_per_prompt: int, *, batch: Batch
    ) -> tuple[dict[str, float], Batch]:
        """Column ``function_score``, the weighted sum of the reward functions; reports each one's mean by name."""
        ...

    @verb(on_device=False)
    def weigh_scores(self, *, batch: Batch) -> tuple[dict[str, float], Batch]:
        """Column ``score``, the weighted sum of what several reward models say; reports each one's mean by name."""
        ...

    @verb(on_device=False)
    def informative(self, at_most: int, first: int, *, batch: Batch) -> tuple[Described, Batch]:
        """The scored samples of the first ``at_most`` prompts whose scores differ, numbered on from ``first``."""
        ...

    @verb(deadline="long", on_device=False)
    def keep_responses(self, staging: str, *, batch: Batch) -> tuple[list[FileRecord | NotWritten], None]:
        """Responses into a checkpoint: they wait for their iteration."""
        ...

    @verb(deadline="long", on_device=False)
    def keep_step(self, folder: str, rows: StepRows, *, batch: Batch) -> tuple[str, None]:
        """A step's samples, and which rows they are of, into a folder of their own; why not, "" where all went well."""
        ...

    @verb(deadline="long", on_device=False)
    def kept_responses(self, checkpoint: str) -> tuple[Described, Batch]:
        """What ``keep_responses`` wrote; described by the responses alone, in the order of their samples."""
        ...

    @verb(on_device=False)
    def assign_credit(self, state: Mapping[str, Any], *, batch: Batch) -> tuple[Credited, Batch]:
        """The columns of the method's way of assigning credit. ``state``: what it left in the iteration before."""
        ...

    @verb(on_device=False)
    def with_texts(self, start: int, count: int, *, batch: Batch) -> tuple[Described, Batch]:
        """Samples that the policy learns from, and behind them ``count`` rows of ``data.ptx`` from position
        ``start``."""
        ...

    @verb(on_device=False)
    def score_summary(self, *, batch: Batch) -> tuple[dict[str, float], None]:
        """Mean and deviation of a rollout's scores, its mean KL per sequence, how long and how often it ended."""
        ...

    @verb(on_device=False)
    def mismatched(self, longest: int, *, batch: Batch) -> tuple[Described, Batch]:
        """The prompts of given answers, each with the answer of another row."""
        ...

    @verb(on_device=False)
    def kl_baseline(self, *, batch: Batch) -> tuple[None, Batch]:
        """Column ``baseline`` of what policy and reference say of mismatched answers."""
        ...

    @verb(on_device=False)
    def logprob_difference(self, one: str, other: str, *, batch: Batch) -> tuple[Difference, None]:
        """How far two token columns are apart over the trained tokens."""
        ...
