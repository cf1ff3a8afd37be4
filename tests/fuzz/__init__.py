"""The campaign of fuzzed inputs: a test tool that feeds every reader with mutated files.

Start it with `python -m tests.fuzz`. Files: `campaign` (the parent process), `child` and `watch`
(one target in its own process), `targets`, `run_targets`, `samples`.
"""
