"""What an algorithm is: its keys in the recipe, its traits, its own rules. Every table of the house follows from these.

    roles, trained, losses   which models there are, which of them learn, and by which loss
    unit, formats            what one unit of data is, and which rows can be made into it
    credit                   what its own responses are worth; empty where it learns from given ones
    phases                   what each role does in a step: placement, threads, memory and time are planned by it

A method is one file of ``config/algorithms``, named as its kind, or a class of somebody else's: see ``find_method``.
No torch: a loss is named (``module:Class``), and found by the worker that computes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, SupportsIndex, TypeAlias

from pydantic import Field

from distft.common.addresses import found_at
from distft.config.data import CLASSIFIED, STEPWISE, Data
from distft.config.problem import Problem
from distft.config.role_table import Role
from distft.config.section import Section
from distft.config.training import Rollout, Train

LossOn: TypeAlias = Literal["completion", "assistant", "all"]
# The mean of a text's states, its first token's, or its last one's.
Pooling: TypeAlias = Literal["mean", "cls", "last"]


@dataclass(frozen=True)
class Unit:
    """What is counted in a batch and never divided between micro-batches: ``rows`` sequences under one name."""

    name: Literal["sequences", "pairs", "answers", "prompts", "tuples"]
    rows: int = 1


SEQUENCES = Unit("sequences")
PAIRS = Unit("pairs", rows=2)  # chosen, rejected
ANSWERS = Unit("answers")  # each labelled good or bad; a pair is one of either
TUPLES = Unit("tuples", rows=2)  # a text, one that belongs to it, and perhaps some that do not
PROMPTS = Unit("prompts")  # each answered ``rollout.samples_per_prompt`` times; a sample is a row


@dataclass(frozen=True)
class Work:
    """What a role does in a phase, or the engines that generate for it. ``ahead``: for the next step, while the others
    do this one's."""

    role: str
    does: Literal["update", "forward", "generate", "sync weights"]
    ahead: bool = False


@dataclass(frozen=True)
class Phase:
    """Works that may go on at the same time, where their roles have devices of their own."""

    name: str
    works: tuple[Work, ...]


@dataclass(frozen=True)
class NamedLoss:
    """The loss of a trained role: ``module:Class``, or ``:Class`` in the method's own file (a class as
    ``distft.algorithms.losses.base`` describes), and which of the method's
    keys it is built with; None: all but ``kind``. ``fixed``: what makes the loss this method's, and is no key."""

    address: str
    keys: tuple[str, ...] | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Telling:
    """What a teacher tells of each token of an answer: the log-probabilities of its ``top_k`` likeliest next tokens and
    of all others together, or of all (None), at a ``temperature``."""

    top_k: int | None
    temperature: float

    def bytes_of(self, vocab: int) -> int:
        """Of one token: a float32 for each outcome, an int32 for each token that is named."""
        named = min(self.top_k or vocab, vocab)
        return 4 * vocab if self.top_k is None else 4 * (named + 1) + 4 * named


UPDATE_OF_POLICY = Phase("update", (Work("policy", "update"),))
# What policy and reference say of the step's prompts with each other's answers: see ``experience.preference``.
KL_BASELINE = Phase("baseline", (Work("policy", "forward"), Work("reference", "forward")))


@dataclass(frozen=True)
class Traits:
    """What the house must know of a method; what a step of it is.

    ``roles`` stand in the order of ``role_table.ROLES``; the first of ``trained`` is the run's result.
    ``formats``: what it can be trained on, in the order in which ``format: auto`` tries them.
    ``losses``: one of each trained role. ``credit``: ``module:function`` of what samples, which says what each token of
    a rollout is worth (see ``distft.experience.credit.base``).
    ``dropout``: whether the model's own dropout is on in training; ``aligns``: it makes little of a model that cannot
    speak yet, so random weights are remarked on; ``in_blocks``: what is longer than the limit is not cut off but
    becomes several sequences, none of whose tokens is lost; ``takes_texts``: the policy keeps other texts likely beside
    (``data.ptx``); ``corrupts``: a text is made into something to be restored, anew at every visit (see
    ``Method.corruption``), a long one in blocks: ``spans`` by an encoder-decoder, ``masks`` by an encoder; ``embeds``:
    its model turns a text into a vector (see ``Method.pools``).
    """

    roles: tuple[Role, ...]
    trained: tuple[Role, ...]
    unit: Unit
    formats: tuple[str, ...]
    losses: Mapping[Role, NamedLoss]
    phases: tuple[Phase, ...]
    credit: str = ""
    dropout: bool = False
    aligns: bool = False
    in_blocks: bool = False
    takes_texts: bool = False
    corrupts: Literal["", "spans", "masks"] = ""
    embeds: bool = False

    def __post_init__(self) -> None:
        if not self.trained or not set(self.trained) <= set(self.roles):
            raise ValueError(f"trained {self.trained} are not among the roles {self.roles}")
        if set(self.losses) != set(self.trained):
            raise ValueError(f"losses are of {tuple(self.losses)}, trained are {self.trained}")
        if strangers := {work.role for phase in self.phases for work in phase.works} - set(self.roles):
            raise ValueError(f"phases name {sorted(strangers)}, the roles are {self.roles}")
        if self.sampled != (self.unit == PROMPTS):
            raise ValueError("what answers prompts needs credit: credit goes with the unit PROMPTS, and only with it")

    @property
    def sampled(self) -> bool:
        """Whether it learns from responses that it samples itself."""
        return bool(self.credit)

    @property
    def answers(self) -> bool:
        """Whether the run's result answers prompts."""
        return self.main == "policy" and not self.corrupts and not self.embeds

    @property
    def judges_steps(self) -> bool:
        """Whether the steps of an answer are judged, each at a token of its own."""
        return set(STEPWISE) <= set(self.formats)

    @property
    def classifies(self) -> bool:
        """Whether its rows name the class of a text."""
        return set(CLASSIFIED) <= set(self.formats)

    @property
    def main(self) -> Role:
        """The role whose model is the run's result."""
        return self.trained[0]

    @property
    def kl_baseline(self) -> bool:
        """Whether its loss measures every answer against the step's KL baseline (column ``baseline``)."""
        return KL_BASELINE in self.phases

    @property
    def works_ahead(self) -> frozenset[str]:
        """What some role does for the next step while others do this one's."""
        return frozenset(work.does for phase in self.phases for work in phase.works if work.ahead)


def at_once(phases: Sequence[Phase]) -> tuple[tuple[str, ...], ...]:
    """Roles that compute at the same time, in the order of a step. What goes ahead counts by itself: it is done
    long before the update that it runs beside."""
    found: dict[tuple[str, ...], None] = {}
    for phase in phases:
        for ahead in (True, False):
            if together := tuple(work.role for work in phase.works if work.ahead is ahead):
                found[together] = None
    return tuple(found)


class Run(Protocol):
    """What a method's rules may look at of the recipe beside its own keys."""

    @property
    def data(self) -> Data: ...
    @property
    def train(self) -> Train: ...
    @property
    def rollout(self) -> Rollout: ...


@dataclass(frozen=True)
class FirstLoss:
    """What the loss is before the first update. ``slope``: by how much at most it moves for each nat by which a
    response's log-probability is off."""

    value: float
    slope: float


@dataclass(frozen=True)
class Renewal:
    """How a frozen reference follows the policy: behind every ``every``-th step its weights become ``share`` of the
    policy's and the rest of its own."""

    every: int
    share: float


def is_from_outside(kind: str) -> bool:
    """Whether a kind is the address of a class, and not the name of a file of the house."""
    return ":" in kind


def _again(kind: str, fields: dict[str, Any], said: set[str]) -> Method:
    """A method of another process. Its class is found as it was there, so that it knows its home."""
    method: type[Method] = found_at(kind)
    method.home = kind.rpartition(":")[0]
    return method.model_construct(_fields_set=said, **fields)


class Method(Section):
    """The base of every method: a section of the recipe (``algorithm:``) that knows its traits."""

    traits: ClassVar[Traits]
    home: ClassVar[str] = ""  # of a method from outside: the module or file in which it is

    kind: str = Field(description="package.module:Class or ./file.py:Class of a method from outside")

    @property
    def name(self) -> str:
        """The kind, for people to read: of a method from outside its class."""
        return self.kind.rpartition(":")[2]

    @classmethod
    def address(cls, said: str) -> str:
        """The address of a loss or of credit as any process understands it; ``:Name`` stands beside the method."""
        return f"{cls.home}{said}" if said.startswith(":") else said

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """A class of a file is not found by its module's name: another process finds it by its address."""
        if not is_from_outside(self.kind):
            return super().__reduce_ex__(protocol)
        return _again, (self.kind, dict(self.__dict__), set(self.model_fields_set))

    def rules(self, run: Run) -> Iterator[Problem]:  # noqa: ARG002 - for those who have rules
        """What of the keys does not go together, or not with the rest of the recipe. Bounds stand with the fields."""
        yield from ()

    def loss_of(self, role: Role) -> tuple[str, dict[str, Any]]:
        """Where the loss of a role is, and what it is built with. KeyError for a role that is not trained."""
        loss = self.traits.losses[role]
        keys = set(type(self).model_fields) - {"kind"} if loss.keys is None else set(loss.keys)
        return self.address(loss.address), {**loss.fixed, **self.model_dump(include=keys)}

    def unit_rows(self) -> int:
        """Sequences of one unit of what is trained on at most: they stay in one micro-batch."""
        return self.traits.unit.rows

    def learned_samples(self, prompts: int, samples_per_prompt: int) -> int:
        """Of what samples for itself: how many of the answers of an iteration are trained on, at most."""
        return prompts * samples_per_prompt

    def on_policy_share(self) -> float:
        """Of what learns from given answers: the share of its steps in which the policy's own stand in their place."""
        return 0.0

    def ptx_rows(self) -> int:
        """Rows of ``data.ptx`` in each optimizer step of the policy, beside the samples."""
        return 0

    def optimizer_steps(self) -> tuple[int, int]:
        """Passes over the experience of a step, and optimizer steps of each pass."""
        return 1, 1

    def refills(self) -> int | None:
        """How often at most an iteration samples anew in place of prompts whose answers are equal in score, which it
        leaves out; None: it takes what it gets."""
        return None

    def held_iterations(self, role: Role) -> int:  # noqa: ARG002 - for those who hold a role
        """The first iterations, in which a trained role is not updated yet."""
        return 0

    def stops_at_kl(self, role: Role) -> float | None:  # noqa: ARG002 - for those who stop
        """The change of the policy, in nats, above which the rest of an iteration's updates of a role is left out."""
        return None

    def values_ends(self) -> bool:
        """Whether the value model also guesses what would follow a response that was cut: a second pass."""
        return False

    def on_labels(self, good: int, bad: int) -> Iterator[str]:  # noqa: ARG002 - for those who weigh them
        """What a user should hear of so many answers that are labelled good and bad, before the run goes on."""
        yield from ()

    def learned_tokens(self) -> LossOn | None:
        """Which tokens of a sequence are learned; None: what the format says."""
        return None

    def embedding_noise(self) -> float:
        """Alpha of the noise on the embeddings of what is trained on; 0: none."""
        return 0.0

    def telling(self) -> Telling | None:
        """What the teacher tells, of a method that has one."""
        return None

    def corruption(self) -> tuple[str, dict[str, Any]] | None:
        """Of what corrupts its texts: ``module:Class`` of a ``distft.data.corruption.Corruption``, and what it is built
        with beside the tokenizer and the longest text."""
        return None

    def pools(self) -> Pooling | None:
        """Of what embeds: what of a text's states is its vector."""
        return None

    def sides(self, data: Data) -> tuple[int, int]:
        """Tokens of a prompt and of an answer at most, of what learns from given answers, where a model reads them
        apart."""
        return data.sides

    def head_labels(self) -> tuple[str, ...]:
        """What the outputs of the trained model's head are called, where they have names."""
        return ()

    def with_labels(self, read: Callable[[], tuple[str, ...]]) -> Method:  # noqa: ARG002 - for those who have some
        """The method with the labels that ``read`` finds in the data, where it has labels and names none."""
        return self

    def renewal(self) -> Renewal | None:
        """How the reference follows the policy; None: it stays as it started."""
        return None

    def may_cache_reference(self) -> bool:
        """Whether what a reference in a group of its own says could be kept (``reference: cached``)."""
        return False

    def caches_reference(self) -> bool:
        """Whether what the reference says of the rows is computed once, before the first step, by the policy, which it
        is then: the run has no model for that role."""
        return False

    def first_loss(self) -> FirstLoss | None:
        """What the loss must be before the first update, where the policy is the reference; None: not known."""
        return None
