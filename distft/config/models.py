"""The models of the roles: where they start, in which precision, on which engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import Field

from distft.config.adapters.kinds import AnyAdapter
from distft.config.data import Source
from distft.config.fewer_bits import QuantizationMethod
from distft.config.optimizers.kinds import AnyOptimizer
from distft.config.reward_servers import HttpReward, JudgeReward, RewardServer
from distft.config.role_table import FURTHER
from distft.config.section import Items, Numeral, Section, WrittenPath

# The keys of a model that say where it begins: a role that takes over another's start takes all of them.
STARTS: Final = ("path", "init", "extend_vocabulary")
# Those that models over one base have in common, whatever each begins as.
BASES: Final = ("dtype", "attention", "kernels", "engine")


class TokenizerInit(Section):
    """A byte-level BPE tokenizer trained at the start of the run."""

    train_on: Items[Source] | None = Field(default=None, description="what it is trained on; null: data.train")
    chat_template: WrittenPath = Field(
        default="default", description="chat template given to it: default, chatml, llama3, or a Jinja file"
    )


class Init(Section):
    """A model with random weights, from the recipe's seed, for runs that start from nothing."""

    architecture: Literal["llama", "t5", "bert"] = Field(
        default="llama",
        description="model family: llama, a decoder; t5, an encoder-decoder (gated, as flan-T5); bert, an encoder: a "
        "reward model, or what learns masked tokens",
    )
    hidden_size: int = Field(ge=8, description="width of the residual stream")
    intermediate_size: int | None = Field(
        default=None, ge=8, description="width of the feed-forward layers; null: 4 x hidden_size"
    )
    num_layers: int = Field(ge=1, le=1000, description="transformer layers; of t5 in encoder and decoder each")
    num_heads: int = Field(ge=1, description="attention heads")
    num_kv_heads: int | None = Field(default=None, ge=1, description="key/value heads; null: num_heads")
    vocab_size: int = Field(
        ge=262, le=1_000_000, description="tokens of the tokenizer: 256 bytes, six special tokens or more, merges"
    )
    max_positions: int = Field(default=2048, ge=8, description="longest sequence, tokens; t5 has no end")
    tie_embeddings: bool = Field(default=True, description="input and output embeddings are one tensor")
    tokenizer: TokenizerInit = Field(default_factory=TokenizerInit, description="the tokenizer trained with it")

    @property
    def feed_forward_size(self) -> int:
        """``intermediate_size``, or four times the hidden size where it is not given."""
        return 4 * self.hidden_size if self.intermediate_size is None else self.intermediate_size

    @property
    def key_value_heads(self) -> int:
        """``num_kv_heads``, or ``num_heads`` where it is not given."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


class Engine(Section):
    """Sharded execution of one role (DeepSpeed ZeRO)."""

    zero_stage: Annotated[Literal[0, 1, 2, 3], Numeral] = Field(
        default=3, description="what is sharded: 0 nothing, 1 optimizer state, 2 + gradients, 3 + parameters"
    )
    offload_parameters: Literal["none", "cpu"] = Field(default="none", description="where idle parameters wait")
    offload_optimizer: Literal["none", "cpu"] = Field(default="none", description="where optimizer state lives")
    sequence_parallel: int = Field(
        default=1, ge=1, le=1024, description="neighbouring ranks that compute the same rows, each a slice of them "
        "(Ulysses): a micro-batch is as many times as long. Its heads must divide by it"
    )  # fmt: skip
    packed: bool | None = Field(
        default=None, description="all samples of a micro-batch in one row, without padding; none sees another. "
        "train.max_tokens_per_rank then caps the sum of their lengths; null: where pretrain's model can"
    )  # fmt: skip
    reduce_bucket_size: int = Field(
        default=50_000_000, ge=1000, description="elements reduced at once; the buffers' memory"
    )
    persistence_threshold: int = Field(
        default=100_000, ge=0, description="parameters with fewer elements stay whole on every rank (stage 3)"
    )
    hpz_partition_size: int = Field(
        default=1, ge=1, le=1024, description="so many neighbouring ranks, all on one node, hold all parameters a "
        "second time between them (stage 3): gathered over all ranks once a step, then within the node (hpZ of ZeRO++, "
        "Wang et al. 2023); 1: no second time"
    )  # fmt: skip

    def on(self, num_ranks: int) -> Engine:
        """What a group of so many ranks runs: one rank has nothing to share, and is spared what sharding costs.

        Stage 0 computes and holds there what any stage would. Offload needs the stage that it is part of.
        """
        if num_ranks > 1 or "cpu" in (self.offload_parameters, self.offload_optimizer):
            return self if num_ranks > 1 else self.model_copy(update={"hpz_partition_size": 1})
        return self.model_copy(update={"zero_stage": 0, "hpz_partition_size": 1})


class Quantization(Section):
    """A frozen base in four bits (Dettmers et al. 2023) or eight (Dettmers et al. 2022): all linear layers of the
    backbone, not head and embedding."""

    method: QuantizationMethod = Field(
        default="nf4",
        description="nf4: 4-bit normal float, blocks of 64 weights; fp4: 4-bit float, the same blocks; int8: whole "
        "numbers of 8 bits, a scale for each row (LLM.int8's weights; what they are multiplied with stays in dtype)",
    )
    double: bool = Field(
        default=True, description="nf4, fp4: the blocks' scales are quantized too, in 8 bits; of int8 they never are"
    )

    @property
    def bits(self) -> Literal[4, 8]:
        """Of a weight, its scale aside."""
        return 8 if self.method == "int8" else 4


class Model(Section):
    """One role's model: ``path`` or ``init``."""

    path: WrittenPath | None = Field(default=None, description="hub name, folder, or run:<output_dir>")
    init: Init | None = Field(default=None, description="random weights instead of a path")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="bfloat16", description="precision of the weights")
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with the model")
    chat_template: WrittenPath | None = Field(
        default=None, description="chatml, llama3, default, or a Jinja file; null: the tokenizer's own"
    )
    extend_vocabulary: WrittenPath | Items[str] | None = Field(
        default=None,
        description="texts that become one token each: a list, or a file with one a line; their rows of the embedding "
        "and of the head begin as the mean of the others (Hewitt 2021)",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        default="auto", description="attention kernel"
    )
    kernels: Literal["auto", "liger", "none"] = Field(
        default="auto",
        description="auto: log-probabilities by a fused head, the logits of all tokens never exist at once, and on a "
        "GPU layers by Liger's kernels where liger-kernel is installed and knows the architecture; liger: an error "
        "where they cannot be had; none: torch's plain operations",
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: less memory, about a third slower"
    )
    engine: Engine = Field(default_factory=Engine, description="sharded execution")
    peft: AnyAdapter | None = Field(
        default=None, description="train adapters, or some of the weights, only; null: all weights"
    )
    quantization: Quantization | None = Field(
        default=None, description="weights of the frozen base in fewer bits; null: in dtype"
    )
    optimizer: AnyOptimizer | None = Field(
        default=None, description="the role's own optimizer; what it does not say is taken from optimizer"
    )

    @property
    def num_virtual_tokens(self) -> int:
        """Tokens of no vocabulary that stand before each of its sequences."""
        return 0 if self.peft is None else self.peft.virtual_tokens

    @property
    def masks_packed_rows(self) -> bool:
        """Whether a mask of the whole row keeps its samples apart; other attention looks at each alone."""
        return bool(self.engine.packed) and self.attention == "eager"

    @property
    def parts_packed_rows(self) -> bool:
        """Whether its attention looks at the samples of a packed row one after the other."""
        return bool(self.engine.packed) and self.attention in ("auto", "sdpa")

    def rate_ratio(self, name: str) -> float:
        """The learning rate of the weight of that name, as a multiple of the optimizer's."""
        return 1.0 if self.peft is None else self.peft.rate_ratio(name)

    @property
    def leaves_base(self) -> bool:
        """Whether its own weights stay what they were while something beside them is trained."""
        return self.peft is not None and self.peft.keeps_base


class Policy(Model):
    """The model whose answers are trained."""

    stop_tokens: Items[str] | None = Field(
        default=None,
        min_length=1,
        description="tokens that end an answer; null: the end of sequence, those of the model's generation settings, "
        "and the one that ends a turn in the chat template",
    )


class Reference(Model):
    """The frozen model that the policy is held to. Without path and init: the policy's start."""

    differs: bool = Field(
        default=False, description="meant to differ from the policy's start: no step-0 check of equality"
    )


class ScoringModel(Model):
    """A model that gives scores."""

    weight: float = Field(default=1.0, description="weight of the model's score beside the others'")
    score: Literal["logit", "probability"] = Field(default="logit", description="what a classifier's score is")
    label: str | None = Field(
        default=None, min_length=1, description="the classifier's label that is rewarded; null: the only output"
    )


class RewardModel(ScoringModel):
    """What gives scores: a model, functions, servers, judges, or several of them."""

    functions: Items[str] = Field(default=(), description="reward functions, module:function")
    weights: Items[float] | None = Field(default=None, description="weight of each function's score; null: all 1")
    arguments: dict[str, dict[str, str | int | float | bool]] = Field(
        default_factory=dict,
        description="of a function, by its name without the module: argument -> value",
    )
    http: Items[HttpReward] = Field(default=(), description="servers that give scores")
    judges: Items[JudgeReward] = Field(default=(), description="language models that judge the answers")

    @property
    def texts_are_scored(self) -> bool:
        """Whether functions or servers give scores, so that no model need."""
        return bool(self.functions or self.servers)

    @property
    def servers(self) -> dict[str, RewardServer]:
        """Those that give scores, judges behind the others, by their keys in the recipe."""
        of = {"http": self.http, "judges": self.judges}
        return {f"models.reward.{key}.{number}": one for key, some in of.items() for number, one in enumerate(some)}


class Models(Section):
    """The models by role. Kind ``reward`` trains ``reward``, the others ``policy``."""

    policy: Policy | None = Field(default=None, description="the trained policy")
    reference: Reference | None = Field(default=None, description="null: the policy's start")
    teacher: Model | None = Field(default=None, description="the frozen model that is learned from")
    reward: RewardModel | None = Field(default=None, description="gives scores (ppo) or is trained (reward)")
    rewards: dict[str, ScoringModel] = Field(
        default_factory=dict,
        description="further reward models by name, each a group of its own; their weighted scores are added",
    )
    value: Model | None = Field(
        default=None, description="null: the reward model's backbone where its tokenizer is the policy's, else policy's"
    )

    def of(self, role: str) -> Model | None:
        """What is said of a role's model; None: nothing. AttributeError for what is no role."""
        if role.startswith(FURTHER):
            return self.rewards.get(role.removeprefix(FURTHER))
        found: Model | None = getattr(self, role)
        return found

    def having(self, models: Mapping[str, Model]) -> Models:
        """The same with those models in the place of what is said of their roles."""
        further = {role.removeprefix(FURTHER): model for role, model in models.items() if role.startswith(FURTHER)}
        others = {role: model for role, model in models.items() if not role.startswith(FURTHER)}
        return self.model_copy(update=others | {"rewards": self.rewards | further} if further else others)
