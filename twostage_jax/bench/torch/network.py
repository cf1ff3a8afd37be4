"""The blog's network in PyTorch, and the data as it reads them."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

WIDTHS = (256, 128)
HEAD = (64,)
CHANNELS = (16, 32)  # of the convolutional encoder
BATCH = 32
Tensors = tuple[torch.Tensor, ...]


def mlp(*widths: int) -> nn.Sequential:
    """Make `Linear` layers with ReLU between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class AsImages(nn.Module):
    """Images `[B, C, H, W]` from `[B, H*W*C]`."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)  # (H, W, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the images with their channels first."""
        return x.view(-1, *self.shape).permute(0, 3, 1, 2)


def conv_encoder(shape: Sequence[int]) -> nn.Sequential:
    """Make a convolutional encoder of images of a shape `(H, W, C)`, given as `[B, H*W*C]`."""
    layers: list[nn.Module] = [AsImages(shape)]
    channels = shape[2]
    for width in CHANNELS:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.ReLU()]
        channels = width
    # Two strides of 2, each rounded up.
    size = ((shape[0] + 3) // 4) * ((shape[1] + 3) // 4)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size, WIDTHS[-1]))


class TwoStageNetwork(nn.Module):
    """The blog's network, with the mirrored decoder that its text describes.

    Args:
        pixels: number of values in an image.
        classes: number of classes.
        encoder: stage 1, from images `[B, pixels]` to 128 features, by default the blog's.
    """

    def __init__(self, pixels: int, classes: int, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.stage1 = encoder or mlp(pixels, *WIDTHS)
        self.stage2 = mlp(WIDTHS[-1], *HEAD, classes)
        self.decoder = mlp(WIDTHS[-1], *reversed(WIDTHS[:-1]), pixels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `[B, K]` of images `[B, pixels]`."""
        return self.stage2(self.stage1(x))

    def placeholder(self, x: torch.Tensor) -> torch.Tensor:
        """Loss of stage 1 of S0, as printed: zero, with zero gradient."""
        features = self.stage1(x)
        return F.mse_loss(features, features.detach())

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Loss of stage 1 of S1, the program as meant by its text."""
        return F.mse_loss(self.decoder(self.stage1(x)), x)

    def classify(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of stage 2 on images."""
        return F.cross_entropy(self.stage2(self.stage1(x).detach()), y)

    def classify_features(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Loss of stage 2 on features."""
        return F.cross_entropy(self.stage2(x), y)

    def stage1_parameters(self, objective: str) -> list[nn.Parameter]:
        """Return the parameters that stage 1 trains."""
        decoder = [] if objective == "placeholder" else list(self.decoder.parameters())
        return [*self.stage1.parameters(), *decoder]


class Images(Dataset):
    """Single images, made as torchvision's MNIST does with `ToTensor` and `Normalize`."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        self.image = torch.tensor(image)
        self.label = torch.tensor(label)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return an image float32 `[C, H, W]` in [-1, 1], and its label."""
        # The same conversions in the same order as in torchvision, which is not needed then.
        picture = Image.fromarray(self.image[index].squeeze(-1).numpy())
        array = np.array(picture, copy=True)
        array = array.reshape(*array.shape[:2], -1)
        tensor = torch.from_numpy(array).permute(2, 0, 1).contiguous().float().div(255)
        mean = torch.tensor([0.5]).view(-1, 1, 1)
        std = torch.tensor([0.5]).view(-1, 1, 1)
        return tensor.clone().sub_(mean).div_(std), int(self.label[index])


def normalised(image: np.ndarray, device: str) -> torch.Tensor:
    """Convert images uint8 `[N, H, W, C]` to `[N, H*W*C]` in [-1, 1]."""
    tensor = torch.tensor(image, device=device).flatten(1)
    return (tensor.float() / 255 - 0.5) / 0.5


def read_arrays(path: str) -> dict[str, np.ndarray]:
    """Read `x_train`, `y_train`, `x_test` and `y_test`."""
    with np.load(path, allow_pickle=False) as arrays:  # noqa: TID251 (the harness wrote it)
        return {name: arrays[name] for name in arrays.files}


class Batches(NamedTuple):
    """The batches of a data set.

    Attributes:
        example: a batch of the full size; empty for a `DataLoader`.
        shuffled: makes the batches of an epoch in a random order.
    """

    example: Tensors
    shuffled: Callable[[], Iterable[Tensors]]


def batches(tensors: Tensors, order: torch.Tensor, size: int = BATCH) -> Iterable[Tensors]:
    """Yield the batches of an epoch in a given order."""
    for start in range(0, len(order), size):
        rows = order[start : start + size]  # the last batch may be smaller
        yield tuple(tensor[rows] for tensor in tensors)


def tensor_batches(*tensors: torch.Tensor, size: int = BATCH) -> Batches:
    """Make the batches of tensors that are on the device."""

    def shuffled() -> Iterable[Tensors]:
        order = torch.randperm(len(tensors[0]), device=tensors[0].device)
        return batches(tensors, order, size)

    return Batches(tuple(tensor[:size] for tensor in tensors), shuffled)


def loader_batches(loader: DataLoader, inputs: int, device: str) -> Batches:
    """Make the batches of a `DataLoader`: images alone, or images and labels (`inputs` 2)."""

    def shuffled() -> Iterable[Tensors]:
        for image, label in loader:
            batch = (image.view(len(image), -1).to(device), label.to(device))
            yield batch[:inputs]

    return Batches((), shuffled)
