"""Every declared verb is there on the worker, with the very same signature, and nothing else can be asked of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from distft.common.verb import Ending, OnDevice, declaration, verbs_of
from distft.workers.data_worker import DataWorker
from distft.workers.engine_worker import EngineWorker
from distft.workers.generator_worker import GeneratorWorker
from distft.workers.model_worker import ModelWorker
from distft.workers.verbs import DataVerbs, EngineVerbs, GeneratorVerbs, ModelVerbs

WORKERS: list[tuple[type, type]] = [
    (ModelVerbs, ModelWorker), (GeneratorVerbs, GeneratorWorker), (EngineVerbs, EngineWorker),
    (DataVerbs, DataWorker),
]  # fmt: skip
CASES = [(declared, worker, name) for declared, worker in WORKERS for name in verbs_of(declared)]
# What workers do for the process they live in, not for the controller.
NO_VERBS = {"take_peaks", "join", "base", "take_turn", "end_turn"}


def own(worker: type) -> dict[str, Any]:
    """What it and the workers that it derives from define, without the declarations."""
    kinds = [kind for kind in worker.__mro__ if kind is not object and not vars(kind).get("_is_protocol", False)]
    return {name: value for kind in reversed(kinds) for name, value in vars(kind).items()}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults; the types are the type checker's (the workers derive from the declarations)."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize(("declared", "worker", "name"), CASES, ids=[f"{case[1].__name__}.{case[2]}" for case in CASES])
def test_a_verb_is_bound_to_the_workers_own(declared: type, worker: type, name: str) -> None:
    real = own(worker).get(name)
    assert real is not None, "declared, and not there"
    assert parameters(real) == parameters(getattr(declared, name))


@pytest.mark.parametrize(("declared", "worker"), WORKERS)
def test_whatever_can_be_asked_is_declared(declared: type, worker: type) -> None:
    public = {name for name, value in own(worker).items() if callable(value) and not name.startswith("_")}
    assert public - NO_VERBS == set(verbs_of(declared))


def test_an_engine_is_asked_for_responses_as_a_policy_is() -> None:
    assert declaration(EngineVerbs.generate) == declaration(GeneratorVerbs.generate)
    assert parameters(EngineVerbs.generate) == parameters(GeneratorVerbs.generate)


def test_what_groups_ask_by_themselves_is_among_them() -> None:
    assert verbs_of(OnDevice).items() <= verbs_of(ModelVerbs).items()
    assert verbs_of(Ending).items() <= verbs_of(DataVerbs).items()


def test_devices_are_asked_for_where_something_is_computed() -> None:
    needing = {name for name, verb in verbs_of(ModelVerbs).items() if verb.on_device}
    keeping = {"save", "copy", "begin_save", "load", "export", "write_weights", "take_weights"}
    assert needing == {"setup", "forward", "distributions", "update", "evaluate"} | keeping
    answering = {name for name, verb in verbs_of(GeneratorVerbs).items() if verb.on_device}
    assert answering - needing == {"sync_weights", "generate", "send_weights"}
    assert {name for name, verb in verbs_of(EngineVerbs).items() if verb.on_device} == {
        "setup", "receive_weights", "generate",
    }  # fmt: skip
    of_states = {name for name in needing if verbs_of(ModelVerbs)[name].states}
    assert of_states == {"setup", "update", "save", "copy", "begin_save", "load"}
    assert not any(verb.on_device for verb in verbs_of(DataVerbs).values())


def test_a_method_without_a_declaration_is_no_verb() -> None:
    with pytest.raises(AttributeError):
        declaration(ModelWorker.take_peaks)
