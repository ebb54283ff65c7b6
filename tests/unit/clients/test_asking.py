"""From typed arguments to what a group is asked, and back to what the caller wants to know."""

from __future__ import annotations

import pytest

from distft.clients.asking import ask, each, rows
from distft.common.verb import declaration
from distft.groups.handles import DataRef, Part
from distft.workers.verbs import GeneratorVerbs, ModelVerbs
from tests.harness.fake_groups import Fake, Said

DATA = DataRef((Part("a", (0, 1)),))


def test_what_is_each_ranks_own_and_the_rows_are_told_from_the_rest() -> None:
    group = Fake("policy", Said(), num_ranks=2)
    call = ask(
        group, ModelVerbs.forward, "logprobs", each([[[0]], [[1], []]]), batch=rows([DATA], [[0], [1]]), entropy=True
    )
    assert call.verb == declaration(ModelVerbs.forward)
    assert (call.args, call.kwargs) == (("logprobs",), {"entropy": True})
    assert call.each == (([[0]],), ([[1], []],))
    assert (call.data, call.samples) == ((DATA,), ((0,), (1,)))


def test_a_verb_without_rows_is_sent_none() -> None:
    call = ask(Fake("policy", Said()), GeneratorVerbs.sync_weights, 3)
    assert (call.args, call.each, call.data, call.samples) == ((3,), None, (), None)


def test_what_is_each_ranks_own_comes_last() -> None:
    group = Fake("policy", Said())
    with pytest.raises(TypeError, match="setup: `each` comes last"):
        ask(group, ModelVerbs.setup, each([("host", 1)]), "path", True)
