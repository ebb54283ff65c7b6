"""``python -m distft``: the console script."""

from distft.cli import run_main

run_main()
