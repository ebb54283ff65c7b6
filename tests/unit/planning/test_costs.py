"""Every formula against numbers worked out by hand."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.config.adapters.lora import Lora
from distft.planning import costs
from distft.planning.adapted_sizes import with_adapters
from distft.planning.hardware import Hardware, hardware_of
from distft.planning.size_sources import sizes_from_config
from tests.unit.launch.examples import LLAMA_8B, gpu_cluster

H100 = hardware_of(gpu_cluster(4), None)
SIZES = sizes_from_config(LLAMA_8B)
# Of one layer of Llama-3 8B: q and o, k and v, three matrices of the MLP, two norms.
LAYER = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": 100, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip


def test_forward_flops_are_two_a_parameter_and_the_quadratic_term() -> None:
    """Per token 2 x 6.98 G in the layers, 4 x 32 layers x 4096 x 2048 for attention, 2 x 4096 x 128256 in the head."""
    per_token = 2 * 32 * LAYER + 4 * 32 * 4096 * 2048
    found = costs.forward_flops(SIZES, tokens=4096, length=2048, read=1000)
    assert found == 4096 * per_token + 1000 * 2 * 4096 * 128256
    nearly = 2 * SIZES.total * 4096  # the embedding is looked up, not multiplied
    assert costs.forward_flops(SIZES, tokens=4096, length=0, read=4096) == pytest.approx(nearly, rel=0.07)


def test_training_is_three_forward_passes_and_with_checkpointing_the_layers_nearly_once_more() -> None:
    forward = costs.forward_flops(SIZES, 100, 512, 100)
    layers = costs.forward_flops(SIZES, 100, 512, 0) - 100 * 2 * 32 * 14336 * 4096
    assert costs.training_flops(SIZES, 100, 512, 100, checkpointing=False) == 3 * forward
    assert costs.training_flops(SIZES, 100, 512, 100, checkpointing=True) == 3 * forward + layers


def test_a_scalar_head_costs_one_column() -> None:
    value = SIZES.with_head("score")
    assert costs.forward_flops(value, 10, 0, 10) - costs.forward_flops(value, 10, 0, 0) == 2 * 4096 * 10


def test_of_a_mixture_only_the_chosen_experts_are_computed() -> None:
    """Attention 4 x 64 x 64, router 8 x 64, 2 of 8 experts of 3 x 64 x 128, two norms; two layers."""
    sizes = sizes_from_config(MIXTRAL)
    assert sizes.active == 2 * (4 * 64 * 64 + 8 * 64 + 2 * 3 * 64 * 128 + 2 * 64)
    assert sizes.of("layers") == 2 * (4 * 64 * 64 + 8 * 64 + 8 * 3 * 64 * 128 + 2 * 64)


def test_a_ring_within_a_node_goes_over_its_links() -> None:
    """8 ranks, 900 GB/s both ways: 450 x 0.8 GB/s; 7 steps of 3.4 us and the start."""
    ring = costs.ring(H100, 8, 1)
    assert ring is not None
    assert ring.bandwidth == pytest.approx(360e9)
    assert ring.latency == pytest.approx(8.4e-6 + 7 * 3.4e-6)
    assert ring.seconds(16e9, 10) == pytest.approx(16e9 * 7 / 8 / 360e9 + 10 * 32.2e-6)
    assert ring.seconds(16e9, 10, rounds=2) == 2 * ring.seconds(16e9, 10)


def test_a_ring_over_nodes_goes_over_the_slower_network() -> None:
    """3200 Gbit/s are 400 GB/s a node, 50 a GPU; of 32 ranks on 4 nodes 28 steps stay within a node, 3 leave it."""
    ring = costs.ring(H100, 32, 4)
    assert ring is not None
    assert ring.bandwidth == pytest.approx(0.8 * 400e9)
    half = costs.ring(H100, 16, 4)  # four GPUs of each node have half of its network
    assert half is not None
    assert half.bandwidth == pytest.approx(0.8 * 200e9)
    assert ring.latency == pytest.approx(8.4e-6 + 28 * 3.4e-6 + 3 * 9.6e-6)


def test_one_rank_waits_for_nobody_and_unknown_links_are_said() -> None:
    alone = costs.ring(H100, 1, 1)
    assert alone is not None
    assert alone.seconds(1e9, 100) == 0
    assert costs.ring(hardware_of(gpu_cluster(2, bandwidth_gbps=None), None), 16, 2) is None
    assert costs.ring(Hardware(1, 8, 2, 2**40, 2**36, 1), 2, 1) is None


def test_collectives_of_a_pass() -> None:
    """Of 8B at 50 M elements: 2 embeddings and 96 MLP matrices by themselves, 1.34 G elements filled into buckets."""
    large = 2 * 128256 * 4096 + 96 * 14336 * 4096
    assert costs.gather_calls(SIZES, 50_000_000) == 2 + 96 + -(-(SIZES.total - large) // 50_000_000)
    assert costs.gather_calls(SIZES, 10**12) == 1


def test_bytes_of_adam_and_of_the_cache() -> None:
    """Bfloat16: 12 bytes of master weights and moments read and written, 4 of gradients, 2 of parameters."""
    assert costs.step_bytes(1000, 2) == 30_000
    assert costs.step_bytes(1000, 2, states=4) == 22_000
    # 32 layers x 8 heads x 128 wide, keys and values, two bytes: 128 KiB a token.
    assert costs.cache_bytes(SIZES, 1, 1, 2) == 128 * 1024


def test_of_what_goes_on_at_once_the_longest_counts_and_a_fifth_of_the_rest() -> None:
    assert costs.overlapped(1.0, 0.5, 0.25) == pytest.approx(1 + 0.2 * 0.75)
    assert costs.overlapped(2.0, 0.0, 0.0) == 2.0


@given(ranks=st.integers(1, 1024), nodes=st.integers(1, 1024), size=st.floats(0, 1e12))
def test_collectives_take_a_positive_finite_time_that_grows_with_size(ranks: int, nodes: int, size: float) -> None:
    ring = costs.ring(H100, 8 * max(ranks, nodes), nodes)
    assert ring is not None
    assert 0 < ring.seconds(size, 1) < inf
    assert ring.seconds(size, 1) <= ring.seconds(2 * size, 1)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["whole", "adapters"])
def test_torch_counts_the_same_flops(lora: Lora | None, tied: bool, checkpointing: bool) -> None:
    """A real Llama under torch's counter of matrix products, forward and backward, of a part of the positions."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    from distft.models.adapters.adapt import add_adapters
    from distft.models.selected import SelectedLogits

    config = LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=200, tie_word_embeddings=tied, attn_implementation="eager", use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sizes = sizes_from_config(config.to_dict())
    if lora is not None:
        add_adapters(model, lora, dropout=False, seed=1)
        sizes = with_adapters(sizes, lora)
    module, rows, length, read = SelectedLogits(model), 2, 48, 30
    counter = FlopCounterMode(display=False)
    with counter:
        module(input_ids=torch.randint(0, 200, (rows, length)), select=torch.arange(read)).sum().backward()
    planned = costs.training_flops(sizes, rows * length, length, read, checkpointing=checkpointing)
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.02)


def test_one_gpu_a_node_has_the_network_alone() -> None:
    described = Hardware(4, 8, 1, 2**40, 2**36, 1, network=400e9)
    ring = costs.ring(described, 4, 4)
    assert ring is not None
    assert ring.bandwidth == pytest.approx(0.8 * 400e9)
    assert costs.ring(Hardware(1, 8, 1, 2**40, 2**36, 1), 1, 1) is not None
