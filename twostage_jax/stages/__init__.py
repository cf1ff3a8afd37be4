"""Functions that return a `Stage` or a `Head`, and the Linen modules that they train.

Files: stage, modules, signature, families, freezing, optimiser, torch_names, nets/,
pretrain/, heads/, views/.
"""
