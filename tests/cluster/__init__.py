"""Tests that need several machines: a bed of them, made on this one."""
