"""The source of `model.py`, which needs torch alone."""

from collections.abc import Mapping, Sequence

from twostage_jax.runs.deploy.torch_program import FUNCTIONS, Program

BATCH = 100  # images that a network of operations computes at a time, so that memory is bounded


def torch_source(about: Mapping[str, object], network: str) -> str:
    """Return the source of `model.py`.

    Args:
        about: constants of the program by name.
        network: functions and the beginning of `Classifier`, from `dense_network` or
            `traced_network`.
    """
    constants = "\n".join(f"{name} = {value!r}" for name, value in about.items())
    return f"{HEAD}{constants}\n{network}{FOOT}"


def dense_network(members: int, stage1: Sequence[int], stage2: Sequence[int]) -> str:
    """Return the source of the blog's network, with the sizes of the layers of both stages."""
    sizes = f"MEMBERS = {members}\nSTAGE1 = {[*stage1]}\nSTAGE2 = {[*stage2]}\n"
    return f"{sizes}{DENSE}"


def traced_network(program: Program) -> str:
    """Return the source of a network that is written operation by operation."""
    arrays = {name: (x.shape, x.dtype.name) for name, x in program.arrays.items()}
    listed = "".join(f"    {name!r}: {value!r},\n" for name, value in arrays.items())
    lines = "".join(f"        {line}\n" for line in program.lines)
    head = f"BATCH = {BATCH}  # images at a time\nARRAYS = {{\n{listed}}}  # shapes and types\n"
    return f"{head}\n{FUNCTIONS}{TRACED}{lines}        return {program.output}\n"


HEAD = '''"""A classifier that twostage-jax exported; it needs torch alone.

    import torch
    from model import load

    model = load()
    images = torch.zeros(5, *model.shape, dtype=torch.uint8)  # [N, H, W, C], 0 to 255
    probability = model(images)  # [N, K], the mean over the members
    print([model.classes[k] for k in probability.argmax(-1)])

`WEIGHTS` lies in the folder of this file. `TEMPERATURE` is that of the calibration; it is None if
there was no validation split.
"""

import json
from pathlib import Path

import torch
from torch import nn

'''
DENSE = '''

def sequential(widths):
    """Dense layers with ReLU between them."""
    layers = []
    for before, after in zip(widths, widths[1:]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class TwoStageNetwork(nn.Module):
    """Images uint8 [N, H, W, C] to logits [N, K]."""

    def __init__(self):
        super().__init__()
        self.stage1 = sequential(STAGE1)
        self.stage2 = sequential(STAGE2)

    def forward(self, images):
        x = (images.float() / 255 - 0.5) / 0.5
        return self.stage2(self.stage1(x.flatten(1)))


class Classifier(nn.Module):
    """Images uint8 [N, H, W, C] to probabilities [N, K]."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleList(TwoStageNetwork() for _ in range(MEMBERS))

    @torch.no_grad()
    def forward(self, images):
        return torch.stack([member(images).softmax(-1) for member in self.members]).mean(0)
'''
TRACED = '''

class Classifier(nn.Module):
    """Images uint8 [N, H, W, C] to probabilities [N, K]."""

    def __init__(self):
        super().__init__()
        for name, (shape, kind) in ARRAYS.items():
            self.register_buffer(name, torch.zeros(shape, dtype=getattr(torch, kind)))

    @torch.no_grad()
    def forward(self, images):
        return torch.cat([self.compute(part) for part in images.split(BATCH)])

    def compute(self, images):
'''
FOOT = '''
    def calibrated(self, images):
        """Probabilities at the temperature that was fitted on validation."""
        logs = self(images).clamp_min(torch.finfo(torch.float32).tiny).log()
        return (logs / (TEMPERATURE or 1.0)).softmax(-1)


Classifier.classes, Classifier.shape, Classifier.temperature = CLASSES, SHAPE, TEMPERATURE
TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
}


def read_weights(path):
    """Tensors of a safetensors file by name."""
    content = bytearray(Path(path).read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    state = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        kind = TYPES[entry["dtype"]]
        values = torch.frombuffer(content[start + first : start + last], dtype=kind)
        state[name] = values.reshape(entry["shape"])
    return state


def load(path=Path(__file__).parent / WEIGHTS):
    """The classifier with its weights."""
    model = Classifier()
    model.load_state_dict(read_weights(path))
    return model.eval()
'''
