from __future__ import annotations

from distft.groups.dispatch import Verb
from distft.groups.lanes import Devices, lanes

SHARED = {"policy": "main", "reference": "main", "value": "own"}


def run(devices: Devices, role: str, verb: Verb | None = None) -> list[tuple[str, str]]:
    """What comes before a verb of ``role``; all of it, and the verb, is then taken as run."""
    asked = verb or Verb()
    steps = devices.steps_before(role, asked)
    for other, name in steps:
        devices.ran(other, name, Verb(on_device=False))
    devices.ran(role, "forward", asked)
    return steps


def test_lanes_keep_the_order_of_the_calls_on_each_set() -> None:
    found = lanes(["main", "own", "main", "third", "main"])
    assert {name: list(positions) for name, positions in found.items()} == {"main": [0, 2, 4], "own": [1], "third": [3]}


def test_groups_that_share_devices_take_turns() -> None:
    devices = Devices(SHARED, {})
    assert run(devices, "policy") == []
    assert run(devices, "policy") == []
    assert run(devices, "reference") == [("policy", "sleep")], "never slept, so not woken"
    assert run(devices, "policy") == [("reference", "sleep"), ("policy", "wake")]
    assert run(devices, "policy") == []


def test_a_group_alone_on_its_devices_neither_sleeps_nor_wakes() -> None:
    devices = Devices(SHARED, {})
    run(devices, "policy")
    assert run(devices, "value") == []
    assert run(devices, "value") == []


def test_verbs_that_need_no_devices_disturb_nobody() -> None:
    devices = Devices(SHARED, {})
    run(devices, "policy")
    assert run(devices, "reference", Verb(on_device=False)) == []
    assert run(devices, "policy") == [], "the reference holds nothing yet"


def test_those_sleep_that_the_plan_says_must() -> None:
    shared = dict.fromkeys(("policy", "reference", "reward"), "main")
    devices = Devices(shared, {"policy": ("reference",), "reference": ("policy",), "reward": ()})
    assert run(devices, "policy") == run(devices, "reference") == run(devices, "policy") == []
    assert run(devices, "reward") == [("policy", "sleep"), ("reference", "sleep")]
    assert run(devices, "policy") == [("reward", "sleep"), ("policy", "wake")]
    assert run(devices, "reference") == [("reference", "wake")]
