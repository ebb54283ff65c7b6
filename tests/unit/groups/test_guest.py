"""A role that lives in another's group: only read, never alone."""

from __future__ import annotations

import pytest

from distft.groups.guest import Guest
from distft.groups.handles import Call, Group


class Host:
    """A group that writes down what it is asked."""

    role, num_ranks, micro_batch_cost, workers = "policy", 2, 64, ()

    def call(self, verb: str, *args: object, **kwargs: object) -> Call:
        return Call(self, verb, lambda _: (), args, kwargs)  # type: ignore[arg-type]


def test_its_forward_pass_is_the_hosts_without_adapters() -> None:
    host = Host()
    guest: Group = Guest("reference", host)  # type: ignore[arg-type]
    call = guest.call("forward", "ref_logprobs", temperature=0.5)
    assert call.group is host
    assert call.args == ("ref_logprobs",)
    assert call.kwargs["adapters"] is False
    assert call.kwargs["temperature"] == 0.5
    assert (guest.role, guest.num_ranks, guest.micro_batch_cost, guest.workers) == ("reference", 2, 64, ())


def test_it_cannot_be_trained_or_saved() -> None:
    guest = Guest("reference", Host())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reference lives in the group of policy and is asked for update"):
        guest.call("update")
