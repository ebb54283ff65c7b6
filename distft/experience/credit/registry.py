"""A method's way of assigning credit, found by its address."""

from __future__ import annotations

import importlib

from distft.config.method import Method
from distft.experience.credit.base import Credit


def credit_of(method: Method) -> Credit:
    """The function at ``traits.credit``, ``module:function``. ValueError where there is none."""
    module_name, _, name = method.traits.credit.partition(":")
    found: Credit | None = getattr(importlib.import_module(module_name), name, None) if module_name else None
    if found is None:
        raise ValueError(f"{method.kind} assigns credit by {method.traits.credit!r}, which is not there")
    return found
