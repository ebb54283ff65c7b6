from __future__ import annotations

from distft.common.verb import Verb
from distft.groups.lanes import Devices

STEP, PASS = Verb("update", states=True), Verb("forward")
ALL = "weights states"
SHARED = {"policy": "main", "reference": "main", "value": "own"}


def run(devices: Devices, role: str, verb: Verb | None = None) -> list[tuple[str, str, str]]:
    """What comes before a verb of ``role``; all of it, and the verb, is then taken as run."""
    asked = verb or STEP
    moves = devices.steps_before(role, asked)
    for move in moves:
        devices.ran(move.role, move.verb, move.parts)
    devices.ran(role, asked)
    return [(move.role, move.verb.name, " ".join(move.parts)) for move in moves]


def test_groups_that_share_devices_take_turns() -> None:
    devices = Devices(SHARED, {})
    assert run(devices, "policy") == []
    assert run(devices, "policy") == []
    assert run(devices, "reference") == [("policy", "sleep", ALL)], "never slept, so not woken"
    assert [role for role in SHARED if devices.asleep(role)] == ["policy"]
    assert run(devices, "policy") == [("reference", "sleep", ALL), ("policy", "wake", ALL)]
    assert run(devices, "policy") == []


def test_a_group_alone_on_its_devices_neither_sleeps_nor_wakes() -> None:
    devices = Devices(SHARED, {})
    run(devices, "policy")
    assert run(devices, "value") == []
    assert run(devices, "value") == []


def test_verbs_that_need_no_devices_disturb_nobody() -> None:
    devices = Devices(SHARED, {})
    run(devices, "policy")
    assert run(devices, "reference", Verb("held", on_device=False)) == []
    assert run(devices, "policy") == [], "the reference holds nothing yet"


def test_those_sleep_that_the_plan_says_must() -> None:
    shared = dict.fromkeys(("policy", "reference", "reward"), "main")
    devices = Devices(shared, {"policy": ("reference",), "reference": ("policy",), "reward": ()})
    assert run(devices, "policy") == run(devices, "reference") == run(devices, "policy") == []
    assert run(devices, "reward") == [("policy", "sleep", ALL), ("reference", "sleep", ALL)]
    assert run(devices, "policy") == [("reward", "sleep", ALL), ("policy", "wake", ALL)]
    assert run(devices, "reference") == [("reference", "wake", ALL)]


def test_states_come_back_for_a_step_only() -> None:
    devices = Devices(SHARED, {})
    run(devices, "policy")
    run(devices, "reference")
    assert run(devices, "policy", PASS) == [("reference", "sleep", ALL), ("policy", "wake", "weights")]
    assert run(devices, "policy", PASS) == []
    assert run(devices, "reference", PASS)[0] == ("policy", "sleep", "weights"), "the states are out already"
    assert run(devices, "policy", STEP)[-1] == ("policy", "wake", ALL)


def test_one_that_rests_keeps_its_weights() -> None:
    devices = Devices(SHARED, {}, {"reference": ("policy",)})
    run(devices, "policy")
    assert run(devices, "reference") == [("policy", "sleep", "states")]
    assert run(devices, "policy", PASS) == [("reference", "sleep", ALL)]
    assert run(devices, "policy", STEP) == [("policy", "wake", "states")]


def test_groups_that_live_in_anothers_processes_move_with_it() -> None:
    """A value model over the policy's base: neither of the two sends the other away, and one who needs the devices
    sends both by asking the policy."""
    devices = Devices(dict.fromkeys(("policy", "value", "reward"), "main"), {}, lives_with={"value": "policy"})
    assert run(devices, "policy") == run(devices, "value") == run(devices, "policy") == []
    assert run(devices, "reward") == [("policy", "sleep", ALL)]
    assert devices.asleep("value")
    assert run(devices, "value") == [("reward", "sleep", ALL), ("policy", "wake", ALL)]
    assert run(devices, "policy") == []
