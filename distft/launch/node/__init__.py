"""One node of a Slurm job (``python -m distft.launch.node``): its Ray, the driver on the first, the end of all."""
