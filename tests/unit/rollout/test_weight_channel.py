"""Weights between processes' ends: all of them, as they were, of the version that was asked for, or an error."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist

from distft.rollout import weight_channel
from distft.rollout.shared_slots import CannotShare, SharedSlots
from distft.rollout.weight_channel import Announced, ChannelBroken, WeightChannel, WeightSyncFailed

TENSORS = {
    "embedding": torch.randn(7, 5),
    "norm": torch.randn(3).bfloat16(),
    "large": torch.randn(400),
    "number": torch.tensor(3.5, dtype=torch.float64),
    "last": torch.randn(2, 3, 2).bfloat16(),
}
ALL = Announced(4, list(TENSORS), (2, 9))


@pytest.fixture(params=["shared", "broadcast", "one is elsewhere"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WeightChannel]]:
    """The trainer's and those of two generators, with buckets that hold a few tensors."""
    monkeypatch.setattr(weight_channel, "PACKED_BYTES", 256)
    if request.param == "broadcast":
        monkeypatch.setattr(SharedSlots, "make", failing(OSError("no memory")))
    elif request.param == "one is elsewhere":
        opened = SharedSlots.open
        answers = itertools.cycle([opened, failing(CannotShare("another machine"))])
        monkeypatch.setattr(SharedSlots, "open", lambda *told: next(answers)(*told))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with ThreadPoolExecutor(3) as pool:
        opening = [pool.submit(WeightChannel, store if rank == 0 else ("127.0.0.1", store.port), rank, 3, timeout_s=20)
                   for rank in range(3)]  # fmt: skip
        yield (ends := [one.result() for one in opening])
        assert [end._shared for end in ends] == [request.param == "shared"] * 3
        assert not any(end._unread for end in ends)


def test_one_that_nobody_else_opens_is_broken() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with pytest.raises(ChannelBroken):
        WeightChannel(store, 0, 2, timeout_s=1)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def sent(ends: list[WeightChannel], announced: Announced, tensors: dict[str, torch.Tensor]) -> list[Any]:
    """Bytes sent, and what each generator got or why it did not."""

    def received(end: WeightChannel) -> Any:
        try:
            return {name: tensor.clone() for name, tensor in end.receive(end.hear(4))}
        except WeightSyncFailed as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        got = [pool.submit(received, end) for end in ends[1:]]
        return [pool.submit(ends[0].send, announced, iter(tensors.items())).result(), *(one.result() for one in got)]


def test_every_tensor_arrives_as_it_was(ends: list[WeightChannel]) -> None:
    for _ in range(2):  # a channel carries one sync after the other
        size, *got = sent(ends, ALL, TENSORS)
        assert size == sum(tensor.numel() * tensor.element_size() for tensor in TENSORS.values())
        for tensors in got:
            assert list(tensors) == list(TENSORS)
            assert all(torch.equal(tensors[name], tensor) for name, tensor in TENSORS.items())
            assert all(tensors[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


def test_what_is_announced_and_does_not_come_is_named(ends: list[WeightChannel]) -> None:
    some = {name: tensor for name, tensor in TENSORS.items() if name != "norm"}
    assert sent(ends, ALL, some)[1:] == ["partial: norm did not come"] * 2


def test_another_version_is_refused(ends: list[WeightChannel]) -> None:
    small = {"norm": TENSORS["norm"]}
    got = sent(ends, Announced(3, ["norm"], ()), small)[1:]
    assert got == ["stale: the weights of version 3 came, not of 4"] * 2


@pytest.mark.parametrize("shared", [True, False])
def test_where_one_end_goes_the_others_say_so_at_once_and_open_another(
    monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    """A generator hears what will come, and goes."""
    monkeypatch.setattr(weight_channel, "PACKED_BYTES", 256)
    if not shared:
        monkeypatch.setattr(SharedSlots, "make", failing(OSError("no memory")))
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def opened(rank: int, number: int) -> WeightChannel:
        where = store if rank == 0 else ("127.0.0.1", store.port)
        return WeightChannel(where, rank, 3, timeout_s=60, number=number)

    def send() -> None:
        with pytest.raises(ChannelBroken):
            opened(0, 0).send(ALL, iter(TENSORS.items()))

    def receive(leaves: bool) -> None:
        channel = opened(1 + leaves, 0)
        announced = channel.hear(4)
        if not leaves:
            with pytest.raises(ChannelBroken):
                deque(channel.receive(announced), maxlen=0)

    with ThreadPoolExecutor(3) as pool:
        for one in [pool.submit(send), *(pool.submit(receive, leaves) for leaves in (False, True))]:
            one.result(20)
        ends = [one.result(20) for one in [pool.submit(opened, rank, 1) for rank in range(3)]]
    _, *got = sent(ends, ALL, TENSORS)
    assert [list(tensors) for tensors in got] == [list(TENSORS)] * 2
