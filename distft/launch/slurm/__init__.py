"""Runs as Slurm jobs: checked on the login node, submitted, asked about; what of it one node does is in ``node``."""
