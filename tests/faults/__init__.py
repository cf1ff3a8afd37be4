"""The campaign of faults: a test tool that injects faults into real runs.

Start it with `python -m tests.faults`. Files: `processes`, `folders`, `session`, `table`, `worker`,
and one for each sort of fault: `kills`, `flips`, `disks`, `pairs`, `values`.
"""
