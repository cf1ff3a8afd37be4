"""`twostage export`: a run as one file."""

from collections.abc import Callable
from pathlib import Path

import jax

from twostage_jax import __version__
from twostage_jax.config.deploy import FORMATS, Export
from twostage_jax.engine.bundle import make_bundle
from twostage_jax.engine.device import find_device
from twostage_jax.errors import UserError, shown
from twostage_jax.runs.deploy.model_file import (
    SCHEMA,
    ModelFile,
    ModelRecord,
    RejectionRecord,
    SetsRecord,
    gaussian_arrays,
    model_bytes,
)
from twostage_jax.runs.deploy.onnx import onnx_bytes
from twostage_jax.runs.deploy.program import export_program
from twostage_jax.runs.deploy.torch import make_torch_model
from twostage_jax.runs.deploy.weights import safetensors_bytes
from twostage_jax.runs.model import SMALL_BATCH
from twostage_jax.runs.open import open_run
from twostage_jax.runs.opened import Run
from twostage_jax.show.terminal import Terminal
from twostage_jax.store.atomic import write_bytes
from twostage_jax.store.decoding import encode
from twostage_jax.trees import tree_leaves

PYTHON_FILE = "model.py"


def export_command(command: Export, terminal: Terminal) -> None:
    """Execute a parsed command; see `export`."""
    find_device(command.device)
    run = open_run(command.run, command.trust_code)
    with terminal.status("exporting"):
        path = export(run, command.out, command.format)
    size = path.stat().st_size / 1e6
    terminal.line(f"{path}  {size:.2f} MB")
    if command.format == "torch":
        terminal.line(f"{path.with_name(PYTHON_FILE)}  needs torch alone")


def export(run: Run | Path | str, file: Path | str | None = None, format: str = "twostage") -> Path:
    """Write a run as one file, as `twostage export` does.

    Args:
        run: from `open_run`, or the folder of a run.
        file: file to write; by default `model.twostage`, `model.onnx`, `model.safetensors` or
            `model-torch.safetensors` in the folder of the run.
        format: `twostage` for a file that `load_model` reads; `onnx`; `safetensors` for all
            parameters; `torch` for the weights of a PyTorch module and a `model.py` beside them.

    Returns:
        The file.

    Raises:
        UserError: a run without a head, another format, a file with the ending of another format, a
            network that the format cannot hold, or a file that cannot be written.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> config = ts.Config(out="runs/d", pretrain={"epochs": 1}, head={"protocol": "ridge"})
    >>> result = ts.run(config, terminal=Terminal(quiet=True))
    >>> file = ts.export("runs/d")
    >>> ts.load_model(file).predict(ts.load("digits").test["image"]).shape
    (359,)
    """
    if format not in FORMATS:
        raise UserError(f"the format is {shown(format)}: choose from {', '.join(FORMATS)}")
    if not isinstance(run, Run):
        run = open_run(run)
    path = run.folder / FORMATS[format] if file is None else Path(file).expanduser()
    _check_ending(path, format)
    contents = WRITERS[format](run, path)
    for target, content in contents.items():
        write_bytes(target, content)
    return path


def _check_ending(path: Path, format: str) -> None:
    """Raise `UserError` if the ending of a file is that of another format."""
    endings = {Path(name).suffix for name in FORMATS.values()}
    if path.suffix in endings - {Path(FORMATS[format]).suffix}:
        fitting = [name for name, file in FORMATS.items() if Path(file).suffix == path.suffix]
        raise UserError(
            f"{path} has the ending of another format than {format}: give --format "
            f"{' or '.join(fitting)}, or another ending"
        )


def _model_file(run: Run, path: Path) -> dict[Path, bytes]:
    predictor = run.predictor
    bundle = make_bundle(predictor)
    program, arrays = export_program(bundle, predictor.batch_size)
    programs = {"program": program}
    if predictor.batch_size > SMALL_BATCH:
        programs["program_small"] = export_program(bundle._replace(arrays=arrays), SMALL_BATCH)[0]
    uncertainty = run.record.uncertainty
    conformal = uncertainty.conformal
    rejection = run.rejection
    about = ModelRecord(
        schema=SCHEMA,
        classes=list(run.classes),
        preprocessing=run.manifest.preprocessing,
        scale=run.manifest.data.scale,
        params=sorted(arrays),
        members=bundle.members,
        batch=predictor.batch_size,
        temperature=uncertainty.temperature,
        sets=None if conformal is None else SetsRecord(conformal.asked, conformal.threshold),
        rejection=None
        if rejection is None
        else RejectionRecord(
            rejection.score, rejection.threshold, len(run.gaussians), rejection.limits or {}
        ),
        versions={"twostage-jax": __version__, "jax": jax.__version__},
        groups={name: group.sha256 for name, group in run.manifest.groups.items()},
        data=run.manifest.data.fingerprint,
    )
    arrays |= gaussian_arrays(run.gaussians)
    return {path: model_bytes(ModelFile(about, programs, arrays))}


def _metadata(run: Run) -> dict[str, object]:
    """Return everything about a model that a program beside ours may need."""
    uncertainty = run.record.uncertainty
    return {
        "classes": list(run.classes),
        "preprocessing": encode(run.manifest.preprocessing),
        "temperature": uncertainty.temperature,
        "twostage-jax": __version__,
    }


def _onnx_file(run: Run, path: Path) -> dict[Path, bytes]:
    bundle = make_bundle(run.predictor)
    return {path: onnx_bytes(bundle, len(run.classes), _metadata(run))}


def _weights_file(run: Run, path: Path) -> dict[Path, bytes]:
    run.record  # noqa: B018  raises an error without stage 2
    return {path: safetensors_bytes(tree_leaves(run.params), _metadata(run))}


def _torch_files(run: Run, path: Path) -> dict[Path, bytes]:
    temperature = run.record.uncertainty.temperature
    model = make_torch_model(run, path.name, temperature)
    weights = safetensors_bytes(model.arrays, _metadata(run))
    source = model.source.encode()
    code = path.with_name(PYTHON_FILE)
    if code.is_file() and code.read_bytes().partition(b"\n")[0] != source.partition(b"\n")[0]:
        raise UserError(
            f"{code} is another program and would be overwritten: give --out a file in another "
            "folder"
        )
    return {path: weights, code: source}


WRITERS: dict[str, Callable[[Run, Path], dict[Path, bytes]]] = {
    "twostage": _model_file,
    "onnx": _onnx_file,
    "safetensors": _weights_file,
    "torch": _torch_files,
}
