"""What this hardware really reaches, measured for the plan."""
