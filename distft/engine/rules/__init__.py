"""Update rules that torch has not, one file each: what they keep beside a weight is declared in ``config.optimizers``.

Under ZeRO a rank steps on flat runs of many weights (see ``engine.pieces``), which such a rule must take.
"""
