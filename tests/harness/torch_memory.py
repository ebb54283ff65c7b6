"""What torch holds on a CPU while a function runs, from its profiler."""

from __future__ import annotations

from collections.abc import Callable

import torch


def most_held(function: Callable[[], object]) -> int:
    """Bytes held at once at the most, of what the function allocates itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = most = 0
    for event in profile.events():
        if event.name == "[memory]":
            held += event.cpu_memory_usage
            most = max(most, held)
    return most
