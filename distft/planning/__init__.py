"""Recipe x cluster -> plan: placement, memory, time. Pure, no torch."""
