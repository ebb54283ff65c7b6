"""Where a run goes: the plan, the checks before it, and what starts it."""
