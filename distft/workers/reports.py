"""What workers report of their verbs: numbers and names for the controller. No torch: the driver reads these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distft.batches import Difference
from distft.checkpoint.manifest import FileRecord, NotWritten
from distft.tracking.data_alarms import Drift
from distft.tracking.flight import RankTrace
from distft.tracking.metrics import Sample

# The loss of single sources of data, by their numbers.
BY_SOURCE = "loss_by_source"


@dataclass(frozen=True)
class Memory:
    """Elements of parameters, gradients and optimizer state on a rank, their bytes now by what they are, and the
    resident bytes of its process."""

    parameters: int
    gradients: int
    optimizer: int
    bytes: Mapping[str, int]
    rss_bytes: int


@dataclass(frozen=True)
class StepRows:
    """Which rows of train a step takes: ``count`` units from position ``start``."""

    step: int
    start: int
    count: int


@dataclass(frozen=True)
class Ready:
    """A rank that has built its model, and in how many seconds. ``stop_tokens``: what its answers end with, where it
    can answer."""

    seconds: float
    memory: Memory
    stop_tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Updated:
    """The metrics of each optimizer step, equal on all ranks, and why it was left out ("": it was taken); what this
    rank holds, and what it recorded, where it does."""

    steps: tuple[dict[str, float], ...]
    skipped: tuple[str, ...]
    memory: Memory
    trace: RankTrace | None = None


@dataclass(frozen=True)
class Saved:
    """A rank's files of a checkpoint, and the seconds that writing them took."""

    files: tuple[FileRecord | NotWritten, ...]
    seconds: float


@dataclass(frozen=True)
class Synced:
    """Bytes that a generator was sent of the weights, in how many seconds."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class Sent:
    """A weight sync as one end of it knows it: ``version`` and ``bytes`` of the weights, in how many seconds they were
    there, and the log-probs that this end then gives the tokens of ``rollout.probe``. ``broken``: why it came to
    nothing, where another end has gone meanwhile."""

    version: int
    bytes: int
    seconds: float
    logprobs: tuple[float, ...]
    broken: str = ""


@dataclass(frozen=True)
class EngineReady:
    """A generator that has been built, in how many seconds. One is like the other."""

    seconds: float = field(compare=False)
    rss_bytes: int = field(compare=False)


@dataclass(frozen=True)
class Answers:
    """A rank's responses: which samples they answer, how many tokens each has, and which weights wrote them."""

    version: int
    samples: tuple[int, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Turned:
    """The samples that go on behind a turn, and how many tokens each has by now."""

    samples: tuple[int, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Played:
    """Responses of several turns: whose, how many tokens each has, how many of all these are observations, and
    ``metrics`` of their turns."""

    samples: tuple[int, ...]
    lengths: tuple[int, ...]
    num_observed: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class RowsPrepared:
    """How far the rows are: whether it is ``done``, what is being done, and the hashes of the sources' ``contents`` by
    their keys, once they are known."""

    done: bool
    doing: str
    contents: Mapping[str, str] | None


@dataclass(frozen=True)
class Loaded:
    """What the data worker has found: units and ``statistics`` (in words) of each split, how many of its rows
    ``leaked`` (of the lists that have such), and are ``alike`` what judges (how many, where the first stands and where
    its like), ``drifts`` of the lists that judge from train, ``warnings``, and whether the reward and the value model's
    tokenizers are the policy's."""

    num_units: Mapping[str, int]
    statistics: Mapping[str, str]
    leaked: Mapping[str, int]
    warnings: tuple[str, ...]
    same_reward_tokenizer: bool
    same_value_tokenizer: bool
    alike: Mapping[str, tuple[int, str, str]] = field(default_factory=dict)
    drifts: Mapping[str, Drift] = field(default_factory=dict)


@dataclass(frozen=True)
class Described:
    """What the controller may know of a batch: tokens of each sample, and which samples belong together. ``answers``:
    of these tokens the response's, where prompt and response are read apart; else empty."""

    lengths: tuple[int, ...]
    units: tuple[int, ...]
    answers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Unread:
    """Rows of which the reference has said nothing yet; ``done``: of ``num_units`` in all so many need nothing more,
    as far as was looked: a worker that has begun anew says the same of less."""

    rows: Described
    done: int = field(compare=False)
    num_units: int


@dataclass(frozen=True)
class Judged:
    """Answers to held-out prompts held against the rows' own: ``metrics``, and some of them for people to read."""

    metrics: dict[str, float]
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Credited:
    """What is said of a rollout once its tokens have their worth: the iteration's ``metrics``, the method's ``state``
    for the next one, and how far the generator's (``trainer_difference``) and the reference's log-probs
    (``reference_difference``; None without one) are from the trainer's. ``chosen``: the samples that are trained on,
    where those are not all of the rollout."""

    metrics: dict[str, float]
    state: dict[str, Any]
    trainer_difference: Difference
    reference_difference: Difference | None
    chosen: Described | None = None


def named_by_source(metrics: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The metrics of ``BY_SOURCE`` with the numbers of sources replaced by their names."""
    numbers = {f"{BY_SOURCE}/{number}": f"{BY_SOURCE}/{name}" for number, name in enumerate(names)}
    return {numbers.get(name, name): value for name, value in metrics.items()}
