"""Deployment: predictions for files, and exported models.

Files: `commands.py`, `inputs.py` (images of a command), `predict.py` (`twostage predict`),
`export.py` (`twostage export`), `model_file.py` (the file `model.twostage`), `program.py` (its
network), `onnx.py` with three files for its graph, `weights.py` (safetensors) and `torch.py`.
"""
