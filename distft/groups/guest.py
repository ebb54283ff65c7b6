"""A role that lives in another's group: the reference as the base under the policy's adapters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distft.groups.handles import Call, Group, WorkerInfo


@dataclass(frozen=True)
class Guest:
    """The ranks of ``host`` under another role's name; see ``handles.Group``.

    Its calls are the host's, after one another with those that are, and are answered without adapters.
    """

    role: str
    host: Group

    @property
    def num_ranks(self) -> int:
        return self.host.num_ranks

    @property
    def micro_batch_cost(self) -> int | None:
        return self.host.micro_batch_cost

    @property
    def workers(self) -> tuple[WorkerInfo, ...]:
        return self.host.workers

    def call(self, verb: str, *args: Any, **kwargs: Any) -> Call:
        """See ``handles.Group.call``. Raises ValueError for all but a forward pass: a base is only read."""
        if verb != "forward":
            raise ValueError(f"{self.role} lives in the group of {self.host.role} and is asked for {verb}")
        return self.host.call(verb, *args, adapters=False, **kwargs)
