"""Memory that two processes share: what one writes the other reads, and nobody opens what is not meant."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from distft.rollout.shared_slots import COUNT, CannotShare, SharedSlots

READ = """
import sys
from distft.rollout.shared_slots import SharedSlots
shared = SharedSlots.open(sys.argv[1], 48)
print(*(slot.tolist() for slot in shared.slots), sep="\\n", flush=True)
shared.slots[1][0] = 99
"""


def test_another_process_reads_what_this_one_wrote_and_the_other_way() -> None:
    shared = SharedSlots.make(48)
    assert len(shared.slots) == COUNT
    for number, slot in enumerate(shared.slots):
        slot.copy_(torch.arange(48, dtype=torch.uint8) + number)
        assert slot.data_ptr() % 16 == 0
    told = [sys.executable, "-c", READ, shared.address]
    read = subprocess.run(told, capture_output=True, text=True, check=True).stdout.splitlines()
    assert read == [str(list(range(number, 48 + number))) for number in range(COUNT)]
    assert int(shared.slots[1][0]) == 99
    shared.close()
    assert int(shared.slots[1][0]) == 99, "who has it goes on"
    with pytest.raises(CannotShare):
        SharedSlots.open(shared.address, 48)


def test_what_lies_at_that_address_on_another_machine_is_not_taken_for_it() -> None:
    ours, theirs = SharedSlots.make(16), SharedSlots.make(16)
    path, token = ours.address.split()[0], theirs.address.split()[1]
    with pytest.raises(CannotShare, match="is not what was shared"):
        SharedSlots.open(f"{path} {token}", 16)
    ours.close()
    theirs.close()


def test_it_leaves_no_descriptor() -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    shared = SharedSlots.make(16)
    again = SharedSlots.open(shared.address, 16)
    shared.close()
    del shared, again
    assert sorted(os.listdir("/proc/self/fd")) == before
