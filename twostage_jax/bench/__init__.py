"""Speed and parity beside PyTorch.

Files: `records`, `figures`, `roofline`, `processes`, `rows`, `report`, `harness`, `speed`,
`members`, `cost`, `pairs`, `parity`. `torch/` holds the PyTorch programs.
"""
