"""The one tiny data set and the one tiny config that tests of whole runs share.

All runs have the same shapes, so their programs are compiled once and then come from jax's cache.
"""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.engine.loop import fit
from twostage_jax.runs import outputs, pictures, preview
from twostage_jax.runs.complete import Result
from twostage_jax.runs.train import Seams
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import Interrupted

CLASSES = 3
TRAIN = 76
VALIDATION = 20  # enough for prediction sets with a coverage of 0.95
TEST = 24
STEPS = 3  # per epoch: two batches of 32, and a remainder of 12
PRETRAIN = {"widths": (8, 4), "epochs": 2, "batch_size": 32, "learning_rate": 0.01}
HEAD = {"widths": (8,), "epochs": 2, "batch_size": 32, "learning_rate": 0.01}
DRAWN = ("plot_curves", "draw_reconstructions", "plot_confusion", "draw_mistakes")
SOLVED = ("linear", "ridge", "knn", "knn-reliable", "prototype", "propagate")


def images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images 4×4 in three classes that differ in brightness, with some overlap, and labels."""
    random = np.random.RandomState(seed)
    label = random.permutation(count) % CLASSES
    image = random.randint(0, 160, (count, 4, 4)) + 40 * label[:, None, None]
    return image.astype(np.uint8), label.astype(np.int32)


def write(path: Path, test_seed: int = 1, order: int = 1, more: int = 0) -> str:
    """Write the tiny set and return its SPEC.

    Args:
        path: file to write.
        test_seed: seed for the test split.
        order: -1 reverses the training examples.
        more: number of additional training examples.
    """
    image, label = images(TRAIN + VALIDATION, 0)
    extra = images(more, 7)
    np.savez(
        path,
        x_train=np.concatenate([image, extra[0]])[::order],
        y_train=np.concatenate([label, extra[1]])[::order],
        **dict(zip(("x_test", "y_test"), images(TEST, test_seed), strict=True)),
    )
    return f"npz:{path}"


def config(data: str, out: Path, **options: object) -> ts.Config:
    """Two short epochs of each stage; `pretrain` and `head` add to their settings."""
    options = dict(options)
    pretrain = {**PRETRAIN, **options.pop("pretrain", {})}  # type: ignore[dict-item]
    head = {**HEAD, **options.pop("head", {})}  # type: ignore[dict-item]
    if ":" in pretrain.get("encoder", ""):
        del pretrain["widths"]
    if head.get("protocol", "mlp") in SOLVED:
        head = {name: x for name, x in head.items() if name not in HEAD}
    options.setdefault("validation", VALIDATION)
    return ts.Config(data=data, out=out, pretrain=pretrain, head=head, **options)  # type: ignore


def _uniform(count: int) -> Callable[[object], np.ndarray]:
    return lambda params: np.full((count, CLASSES), 1 / CLASSES)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Let runs within this block leave pictures empty; drawing takes a quarter of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        for name in DRAWN:
            patch.setattr(pictures, name, lambda *_: b"")
        patch.setattr(outputs, "draw_report", lambda *_, **options: b"")
        for name in ("first_material", "run_material"):
            patch.setattr(outputs, name, lambda *_: {})
        # Its program would be compiled again in every run.
        patch.setattr(preview, "_make_predict", lambda plan, inputs, encoded: _uniform(len(inputs)))
        yield


def run(
    config: ts.Config, terminal: Terminal | None = None, draw: bool = False, **options: object
) -> Result:
    """Run without output and, unless `draw` is true, with empty files in place of pictures."""
    with contextlib.nullcontext() if draw else undrawn():
        return ts.run(config, terminal=terminal or Terminal(quiet=True), **options)  # type: ignore


def resume(folder: Path, terminal: Terminal | None = None, **options: object) -> Result:
    """Resume the run in a folder; options of the config come as `config`."""
    changes = options.pop("config", {})
    return run(ts.Config(out=folder, **changes), terminal, resume=True, **options)  # type: ignore


def stopped_after(calls: int) -> Seams:
    """Seams with which a run gets SIGTERM after so many calls to the device, one per step."""
    count = 0

    def step_by_step(*arguments):
        nonlocal count
        for progress in fit(*arguments, seconds_per_call=0.0):
            count += 1
            yield progress

    @contextlib.contextmanager
    def interruptible():
        yield lambda: count >= calls
        if count >= calls:
            raise Interrupted(15)

    return Seams(step_by_step, interruptible)


def cut(config: ts.Config, calls: int) -> Path:
    """Stop a run after so many calls to the device; returns its folder."""
    with contextlib.suppress(Interrupted):
        run(config, seams=stopped_after(calls))
        raise AssertionError("the run was over before it was stopped")
    assert config.out is not None
    return config.out


def stored(folder: Path, name: str) -> dict:
    """A JSON file of a run."""
    return json.loads((folder / name).read_text())


def metrics(folder: Path) -> list[dict]:
    """Records of all epochs, without their times."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{**line, "seconds": None} for line in lines]


def outcome(folder: Path) -> dict:
    """Everything that equal runs have in common: groups, figures and epochs, without times."""
    groups = stored(folder, "manifest.json")["groups"]
    result = {**stored(folder, "result.json"), "seconds": None}
    return {"groups": groups, "result": result, "metrics": metrics(folder)}


def same(folder: Path, expected: Path) -> None:
    """Assert that two runs have the same bits and the same files."""
    assert outcome(folder) == outcome(expected)
    assert sorted(x.name for x in folder.iterdir()) == sorted(x.name for x in expected.iterdir())


def with_head(config: ts.Config, **settings: object) -> ts.Config:
    """A config with other settings of the head."""
    return dataclasses.replace(config, head=dataclasses.replace(config.head, **settings))  # type: ignore
