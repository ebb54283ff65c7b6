"""Waiting for what nobody announces."""

from __future__ import annotations

import pytest

from distft.common.waiting import wait_until


def test_what_is_done_is_not_waited_for_and_what_never_is_not_for_ever() -> None:
    asked: list[bool] = [False, True]
    assert wait_until(lambda: asked.pop(0), 5, every_s=0.001)
    assert asked == []
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0.01, every_s=0.001)


def test_a_reason_to_give_up_ends_it() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: bool(1 // 0), 5)
