"""Speed and parity beside PyTorch.

Files: `records`, `machine`, `roofline`, `report`, `processes`, `harness`, `speed`, `members`,
`conv`, `pairs`, `steps`, `parity`. `torch/` holds the PyTorch programs.
"""
