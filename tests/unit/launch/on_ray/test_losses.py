"""Which nodes a run may still lie on, by how often it has lost them. That they are lost is seen in tests/ray."""

from __future__ import annotations

import socket

import pytest

from distft.launch.on_ray import losses as module
from distft.launch.on_ray.cluster import Cluster
from distft.launch.on_ray.losses import Losses


def test_a_node_that_was_lost_twice_is_left_out_but_never_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    here, gone = socket.gethostname(), list[str]()
    monkeypatch.setattr(module, "other_nodes", lambda: {"1": "one", "2": "two", "3": here})
    monkeypatch.setattr(module, "lost_nodes", lambda _: gone)
    losses = Losses(Cluster("address", "127.0.0.1", private=False))
    assert (losses.look(), losses.lost, losses.left_out) == (False, [], frozenset())
    seen = [(["one", here], set()), (["two"], set()), (["one", here], {"one"}), (["two"], {"one", "two"})]
    for gone, left_out in seen:
        assert losses.look()
        assert (losses.lost, losses.left_out) == (gone, left_out)
