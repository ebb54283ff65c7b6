"""What torch holds on a CPU while a function runs, from its profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def most_held(function: Callable[[], object]) -> int:
    """Bytes held at once at the most, of what the function allocates itself."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    results: Any = profile.profiler
    records = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    assert records, "torch's profiler tells of no memory"
    held = most = 0
    for record in sorted(records, key=lambda event: event.start_ns()):
        held += record.nbytes()
        most = max(most, held)
    return most
