"""A run opened again: from its folder back to modules and verified parameters."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax import folder as folders
from twostage_jax.checkpoint import describe, open_store
from twostage_jax.config import Config, from_dict, unresolved
from twostage_jax.data import Dataset
from twostage_jax.errors import UserError
from twostage_jax.head import classifier, make_logits
from twostage_jax.metrics import per_class_accuracy, scores
from twostage_jax.nets import MLP, Identity, mirror
from twostage_jax.pretrain import autoencoder, make_decode, placeholder
from twostage_jax.scoring import reconstruction, sum_scores
from twostage_jax.sources import load
from twostage_jax.stage import Params, Stage, digest

SCORES = ("accuracy", "nll", "ece", "brier")


class Nets(NamedTuple):
    """Modules and stages of a resolved config.

    Attributes:
        pretrain: stage 1.
        classify: stage 2.
        classify_features: the same, with `encode`'s features in place of the images of a batch.
        encode: `(params of the encoder, image) -> features`.
        logits: `(params, image) -> logits`.
        decode: `(params, image) -> image`, or None where the objective has no such decoder.
    """

    pretrain: Stage
    classify: Stage
    classify_features: Stage
    encode: Callable[[Params, jax.Array], jax.Array]
    logits: Callable[[Params, jax.Array], jax.Array]
    decode: Callable[[Params, jax.Array], jax.Array] | None


class Run(NamedTuple):
    """A run's folder, read and checked.

    Attributes:
        folder: where it lies.
        config: resolved.
        manifest: the hand-over.
        record: what `result.json` holds.
        nets: modules and stages.
        params: groups `encoder` and `head`, verified.
    """

    folder: Path
    config: Config
    manifest: dict[str, Any]
    record: dict[str, Any]
    nets: Nets
    params: Params


def read_config(folder: Path, trust_code: bool = False) -> Config:
    """The config of the run in `folder`.

    Raises:
        UserError: no run there, a damaged file, or code to import without `trust_code`.
    """
    values = folders.read_json(folder, folders.CONFIG)
    config = from_dict(values, str(folder / folders.CONFIG), trust_code)
    if lacking := unresolved(config):
        raise UserError(f"{folder / folders.CONFIG} is damaged: it lacks {', '.join(lacking)}")
    return config


def make_nets(config: Config, image_shape: tuple[int, ...], classes: int) -> Nets:
    """Modules and stages for images `[H, W, C]` and `classes` classes.

    Raises:
        UserError: an encoder or objective that cannot be imported, or whose shapes do not fit;
            nothing is compiled for that.
    """
    torch_init = config.init == "torch"
    pretrain = config.pretrain
    if pretrain.encoder == "mlp":
        encoder = MLP(pretrain.widths, torch_init)
    else:
        encoder = _make(pretrain.encoder)
    size = int(np.prod(image_shape))
    decoder = MLP(mirror(pretrain.widths, size), torch_init)
    head = MLP((*config.head.widths, classes), torch_init)
    decode = None
    if pretrain.objective == "autoencoder":
        stage, decode = autoencoder(encoder, decoder), make_decode(encoder, decoder)
    elif pretrain.objective == "placeholder":
        stage = placeholder(encoder)
    else:
        stage = _make(pretrain.objective, encoder, decoder)
    classify = classifier(encoder, head)
    on_features = Stage(classify.init, classifier(Identity(), head).loss)
    logits = make_logits(encoder, head)
    encode: Any = encoder.apply
    nets = Nets(stage, classify, on_features, encode, logits, decode)
    for name, one in (("stage 1", nets.pretrain), ("stage 2", nets.classify)):
        _check_shapes(f"{name} ({pretrain.encoder}, {pretrain.objective})", one, image_shape)
    return nets


def _make(name: str, *args: Any) -> Any:
    """Import `package.module:name` and call it; the one door for a user's own code."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"cannot import {name!r}: {error}; give package.module:name as Python finds it from "
            "here (PYTHONPATH=. for a file in this folder)"
        ) from error
    try:
        return function(*args)
    except Exception as error:  # a user's code may raise anything
        given = "encoder and decoder" if args else "no arguments"
        raise UserError(f"cannot make {name!r}, called with {given}: {error}") from error


def _check_shapes(name: str, stage: Stage, image_shape: tuple[int, ...]) -> None:
    def both(key: jax.Array, batch: Mapping[str, jax.Array]) -> Any:
        init_key, loss_key = jax.random.split(key)
        params = stage.init(init_key, batch)
        if "encoder" not in params:
            raise UserError(f"{name} has no group called encoder, only {sorted(params)}")
        return stage.loss(params, loss_key, batch)

    try:
        jax.eval_shape(both, jax.random.key(0), _batch_spec(image_shape))
    except UserError:
        raise
    except Exception as error:  # whatever a user's module may raise, it names what does not fit
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{name} does not fit images {list(image_shape)}: {reason}") from error


def _batch_spec(image_shape: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        "image": jax.ShapeDtypeStruct((2, *image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((2,), jnp.float32),
    }


def encoder_shapes(nets: Nets, image_shape: tuple[int, ...]) -> Params:
    """Shapes and types of the encoder's parameters, for images `[H, W, C]`."""
    params = jax.eval_shape(nets.pretrain.init, jax.random.key(0), _batch_spec(image_shape))
    return params["encoder"]


def load_params(folder: Path, name: str, stage: Stage, image_shape: tuple[int, ...]) -> Params:
    """The parameters that stage `name` of the run in `folder` ended with.

    They are held against their checkpoint's own table and against the manifest.

    Raises:
        UserError: leaves that are missing, unexpected, misshaped, wrongly typed or damaged.
    """
    if not (folder / name).is_dir():
        raise UserError(f"{folder} has no stage {name}: give a run that has finished it")
    expected = jax.eval_shape(stage.init, jax.random.key(0), _batch_spec(image_shape))
    with open_store(folder / name) as store:
        params = store.load({"params": expected})["params"]
    groups = folders.read_json(folder, folders.MANIFEST).get("groups", {})
    for group, tree in params.items():
        if groups.get(group, {}).get("sha256") != digest(tree):
            raise UserError(
                f"{folder / name}: group {group} is not the one that manifest.json describes; the "
                "run is damaged or unfinished"
            )
    return params


def describe_groups(params: Params) -> dict[str, Any]:
    """The `groups` of a manifest: per group its digest, and shape, dtype, sha256 of each leaf."""
    return {
        name: {"sha256": digest(tree), "leaves": describe(tree)} for name, tree in params.items()
    }


def open_run(folder: Path, trust_code: bool = False) -> Run:
    """A complete run, its parameters verified.

    Raises:
        UserError: no complete run there, or one that is damaged.
    """
    config = read_config(folder, trust_code)
    if not (folder / folders.RESULT).is_file():
        raise UserError(
            f"{folder} is not complete: finish it with twostage run --resume --out {folder}"
        )
    record = folders.read_json(folder, folders.RESULT)
    manifest = folders.read_json(folder, folders.MANIFEST)
    image_shape = tuple(manifest["preprocessing"]["image"][1:])
    nets = make_nets(config, image_shape, len(manifest["classes"]))
    params = load_params(folder, "head", nets.classify, image_shape)
    return Run(folder, config, manifest, record, nets, params)


def run_dataset(run: Run, spec: str | None = None, data_dir: Path | None = None) -> Dataset:
    """The run's own data, or `spec`, made sure to be what the run's network can take.

    Raises:
        UserError: own data that has changed, or other data of another shape or number of classes.
    """
    config = run.config
    if spec is None:
        dataset = load(config.data, config.validation, data_dir or config.data_dir)
        if dataset.fingerprint != run.manifest["data"]["fingerprint"]:
            raise UserError(
                f"{config.data} has changed since {run.folder} was made: its fingerprint is "
                f"{dataset.fingerprint}; name it with --data to evaluate on it all the same"
            )
        return dataset
    dataset = load(spec, None, data_dir)
    found = (list(dataset.image_shape), len(dataset.classes))
    expected = (run.manifest["preprocessing"]["image"][1:], len(run.manifest["classes"]))
    if found[0] != expected[0] or found[1] > expected[1]:
        raise UserError(
            f"{spec} has images {found[0]} of {found[1]} classes and {run.folder} takes "
            f"{expected[0]} of {expected[1]}: give data of that kind"
        )
    return dataset


def score(nets: Nets, params: Params, split: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of one part as `result.json` has them, None where there is no example.

    Accuracy, NLL, ECE, Brier and count of `metrics.scores`; accuracy per class; confusion counts
    `[K][K]` (row true, column predicted); and, where `params` can decode, `reconstruction`, the
    mean squared error in [-1, 1].
    """
    if not len(split["label"]):
        return dict.fromkeys(SCORES) | {"count": 0}
    split = jax.device_put(dict(split))
    sums = sum_scores(nets.logits, params, split)
    # One program instead of a dozen small ones.
    figures, each, sums = jax.device_get(
        jax.jit(lambda sums: (scores(sums), per_class_accuracy(sums.confusion), sums))(sums)
    )
    result: dict[str, Any] = {name: _plain(x) for name, x in figures.items()}
    result["per_class_accuracy"] = [None if np.isnan(x) else _plain(x) for x in each]
    result["confusion"] = np.asarray(sums.confusion).astype(int).tolist()
    if nets.decode and "decoder" in params:
        result["reconstruction"] = _plain(reconstruction(nets.decode, params, split))
    return result


def _plain(value: Any) -> int | float:
    """A scalar for JSON, with the digits that a float32 has: 0.9712, not 0.9711999893188477."""
    number = value.item()
    return float(f"{number:.7g}") if isinstance(number, float) else number
