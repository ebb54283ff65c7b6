"""What is moved in a sleep, and what is not."""

from __future__ import annotations

import pytest
import torch

from distft.engine import asleep
from distft.engine.asleep import Asleep, Fate


def test_what_is_frozen_goes_out_once_and_gradients_never() -> None:
    flat = torch.arange(1000.0)
    frozen, gradient = torch.ones(300, dtype=torch.bfloat16), torch.ones(500)
    held: list[tuple[torch.Tensor, Fate]] = [
        (flat[:400], "changing"), (flat[400:], "changing"), (frozen, "frozen"), (gradient, "gradient"),
    ]  # fmt: skip
    sleeping = Asleep()
    assert sleeping.sleep(held) == 4000 + 600
    assert flat.untyped_storage().nbytes() == frozen.untyped_storage().nbytes() == 0
    assert gradient.untyped_storage().nbytes() == 0
    assert sleeping.wake() == 4600
    assert torch.equal(flat, torch.arange(1000.0))
    assert torch.equal(gradient, torch.zeros(500))
    flat += 1
    assert sleeping.sleep(held) == 4000
    assert sleeping.wake() == 4600
    assert torch.equal(flat, torch.arange(1000.0) + 1)
    assert torch.equal(frozen, torch.ones(300, dtype=torch.bfloat16))


def test_what_is_frozen_goes_out_again_where_it_was_written_to() -> None:
    frozen = torch.ones(300)
    sleeping = Asleep()
    for value, bytes_out in ((1.0, 1200), (1.0, 0), (2.0, 1200)):
        if value != 1.0:
            frozen.fill_(value)
            sleeping.forget()
        assert sleeping.sleep([(frozen, "frozen")]) == bytes_out
        sleeping.wake()
        assert torch.equal(frozen, torch.full((300,), value))


def test_a_storage_that_a_changing_tensor_shares_goes_out_each_time() -> None:
    flat = torch.zeros(64)
    held: list[tuple[torch.Tensor, Fate]] = [(flat[:32], "changing"), (flat[32:], "frozen")]
    sleeping = Asleep()
    for _ in range(2):
        assert sleeping.sleep(held) == 256
        sleeping.wake()


def test_places_are_made_once_and_left_to_what_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asleep, "CHUNK", 1024)
    kept = torch.rand(1000)
    sleeping = Asleep()
    places = []
    for _ in range(3):
        made_anew = torch.rand(100)
        copies = kept.clone(), made_anew.clone()
        sleeping.sleep([(kept, "changing"), (made_anew, "changing")])
        places.append({piece.data_ptr() for place in sleeping._places.values() for piece in place.room})
        sleeping.wake()
        assert torch.equal(kept, copies[0])
        assert torch.equal(made_anew, copies[1])
    assert places[0] == places[1] == places[2]


def test_the_states_go_and_come_by_themselves_and_last() -> None:
    weight, state, gradient = torch.arange(100.0), torch.arange(200.0), torch.ones(50)
    held: list[tuple[torch.Tensor, Fate]] = [(weight, "changing"), (state, "state"), (gradient, "gradient")]
    sleeping = Asleep()
    assert sleeping.sleep(held, ("states",)) == 800
    assert torch.equal(weight, torch.arange(100.0)), "was not touched"
    assert state.untyped_storage().nbytes() == gradient.untyped_storage().nbytes() == 0
    weight += 1
    assert sleeping.sleep(held) == 400
    assert sleeping.wake(("weights",)) == 400
    assert torch.equal(weight, torch.arange(100.0) + 1)
    assert state.untyped_storage().nbytes() == 0
    assert sleeping.wake() == 800
    assert torch.equal(gradient, torch.zeros(50))
    sleeping.finish()  # on a GPU the weights are computed with meanwhile
    assert torch.equal(state, torch.arange(200.0))
    assert all(place.fate != "gradient" for place in sleeping._places.values()), "the step frees what it has used"


def test_a_sleep_before_the_states_are_back_waits_for_them() -> None:
    state = torch.arange(200.0)
    sleeping = Asleep()
    for _ in range(2):
        sleeping.sleep([(state, "state")])
        sleeping.wake()
    sleeping.finish()
    assert torch.equal(state, torch.arange(200.0))
