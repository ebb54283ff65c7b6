"""What a GPU shows and a CPU cannot: distft beside TRL and a bare loop, the plan beside the truth, sleep and offload.

    tests/gpu/run --out DIR                     everything, on the first GPU of this machine (about an hour on an H100)
    tests/gpu/run --out DIR --only plan         one part of it: sft, dpo, reward, ppo, plan, sleep, offload
    tests/gpu/run --out DIR --cpu tiny          all the same commands in toy sizes on the CPU: are they alive?

DIR gets ``results.jsonl``, a line for each measurement, ``table.md`` made of it, and the runs' ledgers and plans.
"""
