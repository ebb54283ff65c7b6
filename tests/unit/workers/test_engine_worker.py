"""A vLLM engine beside a sharded trainer: the samples that ``hf`` would draw, the weights of every sync, and what is
said when they are not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distft.batches import Batch, Ragged
from distft.config.models import Engine, Model
from distft.config.optimizers.adamw import AdamW
from distft.controller.invariants import InvariantViolated
from distft.controller.weight_sync import check_sync
from distft.planning.generation import EngineSettings, engine_environment, installed_vllm
from distft.rollout.generator import Sampling
from distft.rollout.weight_channel import Announced, ChannelBroken
from distft.workers.engine_worker import EngineWorker
from distft.workers.generator_worker import GeneratorWorker
from distft.workers.reports import Sent
from distft.workers.spec import EngineSpec, RoleSpec
from tests.unit.engine.group import Group
from tests.unit.models import tiny

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not installed_vllm() and "CI" not in os.environ, reason="vLLM is not installed; tests/run installs it"
    ),
]

LONGEST, NEW, SAMPLES = 64, 16, 12
DRAWN = Sampling(NEW, min_new_tokens=2, temperature=0.7, top_p=0.9, top_k=40)
GREEDY = Sampling(NEW, greedy=True)
Change: TypeAlias = Callable[[str, torch.Tensor], torch.Tensor | None]
Answered: TypeAlias = dict[int, tuple[list[int], list[float], int]]  # tokens, log-probs, ended
_kept: dict[str, Any] = {}  # in a rank's process: its worker


def prompts() -> Batch:
    """Prompts of many lengths, some with the same beginning."""
    lengths = np.random.default_rng(1).integers(3, 30, SAMPLES)
    beginning = tiny.rows((40,))[0].numpy()
    rows = [np.concatenate([beginning[: length - 2], [3 + number, 4]]) for number, length in enumerate(lengths)]
    return Batch({"prompt_ids": Ragged.of(rows, np.int32), "sample": np.arange(SAMPLES)})


def trainer(rank: int, world: int, folder: str) -> Any:
    """A ZeRO-3 policy whose first rank hosts the meeting point."""
    model = Model(path=folder, dtype="float32", engine=Engine(persistence_threshold=0))
    spec = RoleSpec("policy", model, "causal", AdamW(learning_rate=0.05), longest=LONGEST, collective_timeout_s=60)
    worker = _kept["worker"] = GeneratorWorker(spec=spec, rank=rank, world_size=world)
    store = worker.host_store()[0] if rank == 0 else ("", 0)
    worker.setup(store, folder, False)
    return store


def send(rank: int, world: int, version: int) -> Sent:
    return _kept["worker"].send_weights(1, version)[0]


def send_others(rank: int, world: int, version: int, change: Change) -> Sent:
    """A trainer that sends something else, and does not know it."""
    engine = _kept["worker"]._engine
    full, module = engine.full_tensors, engine.module
    tensors = {name: change(name, tensor.clone()) for name, tensor in full()}
    left = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    named = module.named_parameters
    engine.full_tensors = lambda: iter(left.items())
    module.named_parameters = lambda *args, **kwargs: ((n, p) for n, p in named(*args, **kwargs) if n in left)
    try:
        return send(rank, world, version)
    finally:
        del engine.full_tensors, module.named_parameters


def step(rank: int, world: int) -> None:
    """The weights move far."""
    engine = _kept["worker"]._engine
    engine.backward(engine.forward(input_ids=torch.arange(3, 15).unsqueeze(0), select=torch.arange(12)).square().sum())
    engine.step(0.05)


def as_hf(rank: int, world: int, sampling: Sampling) -> Batch:
    worker = _kept["worker"]
    worker.sync_weights(0)
    return worker.generate(sampling, 1, 2, [list(range(SAMPLES))], batch=prompts())[1]


# The two engines are processes that know nothing of each other; each of these is for the one numbered ``mine``.


def built(rank: int, world: int, folders: list[str]) -> None:
    settings = EngineSettings("float32", LONGEST, max_sequences=5, cache_bytes=2**24, gpu=False)
    worker = _kept["worker"] = EngineWorker(spec=EngineSpec(settings, 60), rank=0, world_size=1)
    worker.setup(folders[rank])


def receive(rank: int, world: int, mine: int, store: Any, version: int) -> Sent | None:
    return _kept["worker"].receive_weights(store, version)[0] if rank == mine else None


def receive_without_tied_head(rank: int, world: int, mine: int, store: Any, version: int) -> Sent | None:
    """As vLLM's own reloading does it."""
    from distft.rollout import vllm_weights

    renew, vllm_weights._renew_tied = vllm_weights._renew_tied, lambda _: None
    try:
        return receive(rank, world, mine, store, version)
    finally:
        vllm_weights._renew_tied = renew


def writes(rank: int, world: int) -> bool:
    """Whether the next weights are written where the engine keeps them."""
    return _kept["worker"]._generator._weights._places is not None


def as_vllm(rank: int, world: int, mine: int, sampling: Sampling) -> Batch | None:
    batches = [[1, 0], [], list(range(2, SAMPLES))]
    return _kept["worker"].generate(sampling, 1, 2, batches, batch=prompts())[1] if rank == mine else None


class Pair:
    """Two ranks of a trainer and one of the engines, with weights that go from one to the other."""

    def __init__(self, ranks: Group, engines: Group, mine: int, folder: str) -> None:
        self.ranks, self.engines, self.mine, self.folder = ranks, engines, mine, folder
        self.store = ranks.call(trainer, folder)[0]

    def sync(self, sending: Any, *args: Any, receiving: Any = receive) -> tuple[Sent, Sent]:
        """Both ends at the same time; ``args`` begin with the version."""
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(self.engines.call, receiving, self.mine, self.store, args[0])
            sent = self.ranks.call(sending, *args)[0]
            return sent, other.result()[self.mine]

    def as_hf(self, sampling: Sampling) -> Answered:
        return by_sample(self.ranks.call(as_hf, sampling)[0])

    def as_vllm(self, sampling: Sampling) -> Answered:
        return by_sample(self.engines.call(as_vllm, self.mine, sampling)[self.mine])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tied model and an untied one with new tokens, with heads as wide as vLLM wants them on a processor."""
    made = []
    for tied in (True, False):
        folder = Path(tmp_path_factory.mktemp("model"))
        tiny.tokenizer().save_pretrained(folder)
        made.append(tiny.write_model(folder, "llama", tied=tied, head_dim=32))
    tiny.extend_model(made[1], extended := tmp_path_factory.mktemp("more") / "model")
    return [made[0], str(extended)]


@pytest.fixture(scope="module")
def engines(folders: list[str]) -> Iterator[Group]:
    """One for each of the models."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine_environment(gpu=False).items():
            patch.setenv(name, value)
        group = Group(2, joined=False)
    with group:
        group.call(built, folders)
        yield group
        group.kill()  # vLLM takes its time to end, and there is nothing to end


@pytest.fixture(scope="module", params=["tied", "untied"])
def pair(
    request: pytest.FixtureRequest, groups: dict[int, Group], engines: Group, folders: list[str]
) -> Iterator[Pair]:
    mine = ("tied", "untied").index(request.param)
    yield Pair(groups[2], engines, mine, folders[mine])
    groups[2].call(_forget)


def _forget(rank: int, world: int) -> None:
    _kept.clear()


def by_sample(answers: Batch) -> Answered:
    ids, logprobs, ended = answers.ragged("response_ids"), answers.ragged("sampled_logprobs"), answers.dense("ended")
    return {
        sample: (ids[row].tolist(), logprobs[row].tolist(), int(ended[row]))
        for sample, row in answers.rows_of_samples().items()
    }


def assert_same_answers(pair: Pair) -> None:
    for sampling in (GREEDY, DRAWN):
        hf, vllm = pair.as_hf(sampling), pair.as_vllm(sampling)
        assert hf.keys() == vllm.keys() == set(range(SAMPLES))
        for sample, (ids, logprobs, ended) in hf.items():
            assert vllm[sample][0] == ids
            assert vllm[sample][1] == pytest.approx(logprobs, abs=2e-4)
            assert vllm[sample][2] == ended
        assert len({tuple(ids) for ids, _, _ in hf.values()}) > SAMPLES // 2, "a model that always says the same"


def break_off(rank: int, world: int, mine: int, folder: str) -> None:
    """The first weights stop coming when a part of a layer is there."""
    if rank != mine:
        return
    weights = load_file(Path(folder) / "model.safetensors")
    name = next(name for name in weights if "q_proj" in name)

    def some() -> Iterator[tuple[str, torch.Tensor]]:
        yield name, weights[name]
        raise ChannelBroken("the sender has gone")

    with pytest.raises(ChannelBroken):
        _kept["worker"]._generator.load(Announced(0, list(weights), ()), some())


def test_an_engine_answers_as_hf_does_with_the_weights_of_every_sync(pair: Pair) -> None:
    """Also when the first did not come whole."""
    pair.engines.call(break_off, pair.mine, pair.folder)
    sent, received = pair.sync(send, 0)
    check_sync("float32", 0, sent, [received], None)
    assert_same_answers(pair)
    assert pair.engines.call(writes)[pair.mine], "the next weights come by vLLM's own reloading again"
    first = pair.as_vllm(GREEDY)
    pair.ranks.call(step)
    last = sent, [received]
    sent, received = pair.sync(send, 1)
    check_sync("float32", 1, sent, [received], last)
    assert pair.as_vllm(GREEDY) != first, "an update that changed nothing"
    assert_same_answers(pair)


def stale(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
    """A layer that is not what the trainer has now."""
    return tensor + 0.1 if ".layers.1.mlp.up_proj" in name else tensor


def partial(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
    return None if ".layers.1.self_attn.o_proj" in name else tensor


def test_a_sync_that_is_not_one_stops_the_run(pair: Pair, request: pytest.FixtureRequest) -> None:
    sent, received = pair.sync(send, 2)
    check_sync("float32", 2, sent, [received], None)
    with pytest.raises(InvariantViolated, match="skipped: it still answers with version 2"):
        check_sync("float32", 3, replace(sent, version=3), [received], (sent, [received]))
    with pytest.raises(InvariantViolated, match="a part is stale or missing"):
        check_sync("float32", 3, *(lambda s, r: (s, [r]))(*pair.sync(send_others, 3, stale)), None)
    with pytest.raises(AssertionError, match=r"partial: model\.layers\.1\.self_attn\.o_proj\.weight of the generator"):
        pair.sync(send_others, 4, partial)
    if "[tied]" in request.node.name:
        pair.ranks.call(step)
        sent, received = pair.sync(send, 5, receiving=receive_without_tied_head)
        with pytest.raises(InvariantViolated, match="a tied head was not renewed"):
            check_sync("float32", 5, sent, [received], None)
    sent, received = pair.sync(send, 6)
    check_sync("float32", 6, sent, [received], None)
    assert_same_answers(pair)
