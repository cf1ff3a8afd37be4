"""Deployment: predictions for files, and exported models.

Files: `commands.py`, `inputs.py` (images of a command), `predict.py` (`twostage predict`),
`export.py` (`twostage export`), `model_file.py` (the file `model.twostage`), `program.py` (its
network), `weights.py` (safetensors), `onnx_graph.py` with two files of operations, and its two
written forms: `onnx.py`, and `torch.py` with two files.
"""
