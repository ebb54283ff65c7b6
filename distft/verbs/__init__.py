"""The verbs, a thin file each: what may be typed after it, and what it prints. Heavy imports wait for `run`."""
