"""The Triton kernels say what torch says: compiled on a GPU, elsewhere under Triton's interpreter if it is there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distft.algorithms.linear_logprobs import LogitMap
from distft.algorithms.logprobs import OUTPUTS, token_logprobs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton comes with torch for GPUs")

from distft.algorithms import softmax_kernels  # noqa: E402

TOKENS, VOCAB = 5, 9000  # more than two blocks, the last one not full
MAPS = [(LogitMap(), 1.0), (LogitMap(0.25, None), 0.7), (LogitMap(2.0, 5.0), 1.3)]


def _products(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(3)
    products = (3 * torch.randn(TOKENS, VOCAB, generator=draw)).to(DEVICE, dtype)
    return products, torch.tensor([0, 4095, 4096, VOCAB - 1, 17], device=DEVICE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("logit_map", "temperature"), MAPS, ids=["plain", "scaled", "capped"])
def test_what_is_read_is_torchs(logit_map: LogitMap, temperature: float, dtype: torch.dtype) -> None:
    products, targets = _products(dtype)
    wanted = token_logprobs(logit_map.of(products.float()), targets, outputs=OUTPUTS, temperature=temperature)
    found = softmax_kernels.read_rows(
        products, targets, scale=logit_map.scale, cap=logit_map.cap, temperature=temperature, entropy=True, mean=True
    )
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=2e-5, atol=2e-5, msg=name)


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize(("logit_map", "temperature"), MAPS, ids=["plain", "scaled", "capped"])
def test_the_gradient_is_autograds(logit_map: LogitMap, temperature: float, with_entropy: bool) -> None:
    products, targets = _products(torch.float32)
    products[3, 5] = float("nan")  # a masked token's
    by_logprobs = torch.tensor([1.0, -0.5, 2.0, 0.0, 0.25], device=DEVICE)
    by_entropy = torch.tensor([0.3, 0.0, -1.0, 0.0, 2.0], device=DEVICE) if with_entropy else None
    leaf = products.nan_to_num().double().requires_grad_()
    found = token_logprobs(
        logit_map.of(leaf), targets, outputs=("logprobs", "entropy"), temperature=temperature
    )  # fmt: skip
    loss = (by_logprobs * found["logprobs"]).sum()
    if by_entropy is not None:
        loss = loss + (by_entropy * found["entropy"]).sum()
    (wanted,) = torch.autograd.grad(loss, leaf)

    told = {"scale": logit_map.scale, "cap": logit_map.cap, "temperature": temperature}
    read = softmax_kernels.read_rows(products, targets, entropy=True, mean=False, **told)
    halves = []
    for part in (slice(0, 5000), slice(5000, VOCAB)):
        half = products[:, part].contiguous()
        softmax_kernels.replace_by_gradient(
            half, targets, read["log_sum"], by_logprobs / temperature, entropy=read["entropy"],
            by_entropy=None if by_entropy is None else by_entropy / temperature, offset=part.start, **told,
        )  # fmt: skip
        halves.append(half)
    gradient = torch.cat(halves, dim=1)
    assert gradient[3].abs().max() == 0
    torch.testing.assert_close(gradient, wanted.float(), rtol=1e-4, atol=1e-6)
