from __future__ import annotations

from distft.controller.session import device_peaks


def test_the_ledger_has_the_peaks_of_the_fullest_rank() -> None:
    reports = [{"rss_bytes": 9, "allocated_peak": 3, "reserved_peak": 8}, {"allocated_peak": 5, "reserved_peak": 7}]
    assert device_peaks("value", reports) == {"memory/value/allocated_peak": 5, "memory/value/reserved_peak": 8}
    assert device_peaks("value", [{"rss_bytes": 9}]) == {}
