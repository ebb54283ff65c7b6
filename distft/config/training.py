"""How a run goes: steps, rollout, checkpoints, recovery, evaluation, tracking, placement."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Field

from distft.config.http_server import HttpServer
from distft.config.role_table import FURTHER, Role
from distft.config.section import Items, Numeral, Section, WrittenPath


class Train(Section):
    """Length and batch of the run. A step is an optimizer step, in RL an iteration (one rollout batch)."""

    steps: int | None = Field(default=None, ge=1, description="steps to train; instead of epochs")
    epochs: float | None = Field(default=None, gt=0, description="passes over the training rows; instead of steps")
    last_batch: Literal["smaller", "drop", "fill"] | None = Field(
        default=None,
        description="the batch at an epoch's end: smaller, its rows dropped, or filled from the next epoch; "
        "null: smaller with epochs, fill with steps",
    )
    global_batch_size: int = Field(
        default=64,
        ge=1,
        description="per step over all ranks: sequences (sft), pairs or rankings (dpo, reward), prompts (ppo)",
    )
    max_tokens_per_rank: int = Field(
        default=4096, ge=2, description="tokens of one micro-batch on one rank, padding included"
    )


class EnvironmentServer(HttpServer):
    """An environment that is asked of a server: see ``distft.rollout.http_environment``."""

    timeout: float = Field(
        default=10.0, gt=0, le=3600,
        description="seconds that one request may take; it is sent again until step_deadline_s",
    )  # fmt: skip


class Environment(Section):
    """What answers the policy turn by turn, and when that ends: see ``distft.rollout.environment``."""

    name: str | None = Field(
        default=None,
        pattern=r"^.+:[A-Za-z_]\w*$",
        description="its class: package.module:Class, or ./file.py:Class beside the recipe; one object a sample; null: "
        "http",
    )
    http: EnvironmentServer | None = Field(default=None, description="a server in the place of a class")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="what the class is called with, by name; a server is sent them"
    )
    max_turn_tokens: int = Field(
        ge=1,
        description="longest turn of the policy, tokens; rollout.max_new_tokens is for all turns and observations "
        "together, and no turn begins that has not the room for so many",
    )
    max_turns: int = Field(default=4, ge=1, le=100, description="turns of the policy at most; the last one ends it")
    role: Literal["user", "tool"] = Field(
        default="user", description="who says an observation, where the prompt is a conversation: see its chat template"
    )
    step_deadline_s: float = Field(default=30, gt=0, description="a step that takes longer ends the run, seconds")


class CutTails(Section):
    """When the last responses of a batch are cut, so that nobody waits for them."""

    finished: float = Field(
        default=0.9, gt=0, lt=1,
        description="share of a batch's responses that are waited for; those that have not ended by then are cut",
    )  # fmt: skip
    every: int = Field(
        default=256,
        ge=1,
        description="tokens after which it is looked how many have ended: responses are sampled in parts of so many, "
        "and a part begins with reading what is there",
    )
    mask: bool = Field(
        default=True,
        description="a cut response is left out of the loss, as its score says little of what it would have become "
        "(overlong filtering, Yu et al. 2025); what it is compared with still counts its score, as in TRL. false: it "
        "is trained on like one that is cut at max_new_tokens",
    )


class Rollout(Section):
    """How responses are sampled (RL, and the samples of evaluation)."""

    engine: Literal["auto", "hf", "vllm"] = Field(
        default="auto",
        description="what generates: transformers on the policy's ranks (hf), or vLLM on devices of its own; "
        "auto: vLLM where it is installed, takes the model and finds room, else hf; the plan says which",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="longest response, tokens")
    min_new_tokens: int = Field(default=0, ge=0, description="no end of sequence before this many tokens")
    temperature: float = Field(default=1.0, gt=0, le=10, description="logits are divided by this, in training too")
    top_p: float = Field(default=1.0, gt=0, le=1, description="nucleus sampling: probability mass kept; 1: all")
    top_k: int = Field(default=0, ge=0, description="likeliest tokens kept; 0: all")
    samples_per_prompt: int = Field(default=1, ge=1, le=1024, description="responses per prompt")
    overlap: Annotated[Literal[0, 1], Numeral] = Field(
        default=0,
        description="iterations that generation runs ahead of training: 1: engines sample the next iteration's "
        "responses while the policy learns from this one's, which are then one update older than the policy",
    )
    max_batch_per_rank: int = Field(default=64, ge=1, description="sequences generated at once on a rank")
    weights: Literal["gathered", "sharded"] = Field(
        default="gathered", description="generate from a gathered twin (fast) or from the shards (least memory)"
    )
    router_replay: bool = Field(
        default=False,
        description="of a mixture of experts: every token goes to the experts in training that it went to when it was "
        "sampled, whose weights are the trained router's (R3, Ma et al. 2025); hf records them",
    )
    cut_tails: CutTails | None = Field(
        default=None,
        description="responses that are longer than nearly all of their batch are cut; null: all are waited for",
    )
    environment: Environment | None = Field(
        default=None,
        description="what answers the policy's turns and rewards them, without models.reward; null: one turn",
    )


class Checkpoint(Section):
    """When state is saved and where a run goes on."""

    every: int = Field(default=50, ge=1, description="steps between checkpoints")
    keep: int = Field(default=3, ge=1, description="newest complete checkpoints kept")
    asynchronous: bool = Field(
        default=False,
        description="of what is trained training waits only for a copy in host memory, which is written while it goes "
        "on (a renewed reference and responses sampled ahead are written at once); a checkpoint counts when all of it "
        "is written, at the end of a later step; the last is always waited for",
    )
    memory_every: int = Field(
        default=0,
        ge=0,
        description="steps between copies of all that is trained in the memory of each rank's node and of the next "
        "node, from which a run goes on after the loss of ranks or of a node without reading its disk; 0: none; see "
        "launchers/README.md",
    )
    resume: WrittenPath = Field(
        default="auto", description="auto: from the newest complete checkpoint; never; or a folder"
    )
    changed_data: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="data that is not what it was at the checkpoint: do not go on, or accept it",
    )


# Steps in a row for which a loss must be far above its start to be called a divergence.
DIVERGED_AFTER: Final = 20


class Recovery(Section):
    """What happens when a worker dies or hangs, or a step comes out as no number."""

    max_restarts: int = Field(
        default=3, ge=0, description="restarts, workers replaced in place; 0: the first failure ends it"
    )
    max_skipped_steps: int = Field(
        default=3,
        ge=0,
        description="an optimizer step whose loss or gradient is no number is left out, its batch kept: in so many "
        "batches in a row, and one more ends the run. A row or a number too large passes with its batch, weights gone "
        "astray do not, so that a few tell the two apart; 0: the first step ends it",
    )
    rollback: int = Field(
        default=0,
        ge=0,
        description="where a spike of the loss or the gradient norm does not pass, the loss stays far above its start, "
        "or max_skipped_steps is passed, go back to the newest checkpoint before that and pass over the data that led "
        "to it: so many times in a run, and one more ends it; 0: never, a spike is an alarm alone; see "
        "launchers/README.md",
    )
    deadline_floor_s: float = Field(default=600, gt=0, description="no call is given up sooner, seconds")
    deadline_factor: float = Field(
        default=20, ge=1, description="a call is given up after this many times its usual duration"
    )
    start_deadline_s: float = Field(default=900, gt=0, description="the start of a group is given up after, seconds")
    wait_for_nodes: float = Field(
        default=0,
        ge=0,
        le=7 * 24 * 3600,
        description="of a run over several nodes of a Ray cluster that has lost one: seconds that it waits until that "
        "one is back or another takes its place, before it ends, with exit status 75 where a checkpoint is there, "
        "else as failed; 0: it ends at once",
    )
    elastic: bool = Field(
        default=False,
        description="where none is back by then, go on with fewer ranks on the nodes of the Ray cluster that are left, "
        "if a plan fits there",
    )

    @property
    def outlives_nodes(self) -> bool:
        """Whether a run goes on where it has lost a node."""
        return self.elastic or self.wait_for_nodes > 0


AnswerMetric: TypeAlias = Literal["exact_match", "f1", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf"]


class Evaluation(Section):
    """Held-out metrics."""

    every: int = Field(default=0, ge=0, description="steps between evaluations; 0: only before and after")
    metrics: Items[AnswerMetric] = Field(
        default=(),
        description="what the policy's own answers to held-out prompts are held against the rows' answers by, as "
        "val/<name>; in RL they are sampled, else the likeliest token is taken",
    )
    general: WrittenPath | None = Field(
        default=None,
        description="text that has nothing to do with the run's data, to see what is forgotten: a file, a data set, or "
        "builtin; its loss per token is val/general_loss",
    )
    criterion: str | None = Field(
        default=None,
        min_length=1,
        description="by what a judge (distft eval, distft collect) and labellers (distft collect) are to prefer "
        "answers, in words; null: help without harm",
    )
    best: str | None = Field(
        default=None,
        description="held-out metric by which final/ is chosen, such as loss or val/rougeL: its best checkpoint stays, "
        "and is the result; null: the last step is",
    )
    patience: int = Field(
        default=0, ge=0, description="evaluations without a better evaluation.best that end the run; 0: none do"
    )
    max_samples: int = Field(
        default=256, ge=1, description="rows used per evaluation, a sample over all sources of the list"
    )


class Wandb(Section):
    """Weights & Biases."""

    mode: Literal["offline", "online", "shared", "disabled"] = Field(
        default="offline",
        description="where the W&B run is kept; shared: online, as a run that processes of yours may write to at the "
        "same time (experimental in W&B)",
    )
    project: str = Field(default="distft", min_length=1, description="W&B project")
    entity: str | None = Field(default=None, min_length=1, description="W&B team or user; null: the account's default")
    group: str | None = Field(default=None, min_length=1, description="W&B group of runs")
    tags: Items[str] = Field(default=(), description="W&B tags")


class Tracking(Section):
    """What is recorded besides metrics.jsonl."""

    wandb: Wandb = Field(default_factory=Wandb, description="Weights & Biases")
    tensorboard: bool = Field(
        default=False,
        description="event files for TensorBoard below the run folder too, of all that metrics.jsonl has; the package "
        "tensorboard must be there",
    )
    samples_every: int = Field(default=10, ge=0, description="steps between lines in samples.jsonl; 0: never")
    timeline_steps: int = Field(
        default=100, ge=0, description="steps of each attempt that timeline.json shows, who did what when; 0: none"
    )
    flight_recorder: bool = Field(
        default=True,
        description="of every optimizer step digests of what goes in and norms of what comes out, a line a rank in "
        "flight.jsonl, by which distft bisect finds where two runs part; the file stays below 64 MiB",
    )
    samples_count: int = Field(default=8, ge=1, description="samples written each time")


class RolePlacement(Section):
    """Where the ranks of one role live, or those that generate for it."""

    ranks: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="ranks of the role; auto: the plan chooses from the cluster"
    )
    with_: Role | None = Field(
        default=None, alias="with", description="a group of its own on that role's devices, taking turns"
    )
    share: Role | None = Field(
        default=None, description="lives in that role's group: over the policy's base, with adapters or without"
    )


class Placement(Section):
    """The roles' places; what is not said the plan chooses."""

    policy: RolePlacement = Field(default_factory=RolePlacement, description="the trained policy's ranks")
    reference: RolePlacement = Field(default_factory=RolePlacement, description="the frozen reference's ranks")
    teacher: RolePlacement = Field(default_factory=RolePlacement, description="the frozen teacher's ranks")
    reward: RolePlacement = Field(default_factory=RolePlacement, description="the reward model's ranks")
    rewards: dict[str, RolePlacement] = Field(
        default_factory=dict, description="further reward models' ranks, each by the name of its model"
    )
    value: RolePlacement = Field(default_factory=RolePlacement, description="the value model's ranks")
    rollout: RolePlacement = Field(default_factory=RolePlacement, description="vLLM's engines, one a rank")

    def of(self, role: str) -> RolePlacement:
        """The placement of a role."""
        if role.startswith(FURTHER):
            return self.rewards.get(role.removeprefix(FURTHER), RolePlacement())
        placement = getattr(self, role)
        if not isinstance(placement, RolePlacement):
            raise KeyError(role)
        return placement
