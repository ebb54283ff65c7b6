"""Ways to run the real workers and loops without Ray."""
