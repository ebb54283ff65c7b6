"""Sharded execution. The only package that imports deepspeed."""
