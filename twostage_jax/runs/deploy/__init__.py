"""Deployment: predictions for files, and exported models.

Files: `commands.py`, `inputs.py` (images of a command), `predict.py` (`twostage predict`),
`export.py` (`twostage export`), `model_file.py` (the file `model.twostage`), `program.py` (its
network), `onnx.py` with `onnx_graph.py` and `onnx_operations.py`, `weights.py` (safetensors) and
`torch.py`.
"""
