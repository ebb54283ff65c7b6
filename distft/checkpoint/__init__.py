"""Committed checkpoints: layout, manifest, coordinator, and the lease on a run folder. No torch here."""
