"""The hand-over from stage 1 to stage 2: the only file that knows which groups have a member axis.

Inside a run, the groups of stage 1 are `[E, ...]` for its E encoders and the head is `[R, ...]` for
its R trials. In stage 2 a single encoder is shared and has no axis; several are gathered to
`[R, ...]`, one for each trial, and so is one that stage 2 trains. Users see no axis where there is
only one training.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.config.schema import Config
from twostage_jax.engine.members import Axes, TrialData, gather
from twostage_jax.engine.placement import map_members
from twostage_jax.engine.state import TrainState
from twostage_jax.errors import Corrupted
from twostage_jax.runs.checkpoints import BEST, best_shapes
from twostage_jax.runs.networks import BANK, Networks, head_shapes
from twostage_jax.runs.specs import batch_spec
from twostage_jax.runs.trials import Trials, first_numbers, own_numbers
from twostage_jax.stages.stage import Params, new_key
from twostage_jax.store.checkpoint import Store
from twostage_jax.store.records import Manifest, describe_groups
from twostage_jax.trees import PyTree, digest

FROZEN = "encoder"


class Sizes(NamedTuple):
    """Numbers of examples that the shape of a solved head may depend on.

    Attributes:
        labelled: labelled examples of one trial.
        validation: validation examples.
    """

    labelled: int
    validation: int


def head_axes(trials: Trials, groups: Iterable[str] = (FROZEN, "head")) -> dict[str, int | None]:
    """Return the axes of the groups of stage 2."""
    several = len(trials.encoders) > 1 or trials.tuned
    return {name: 0 if several or name == "head" else None for name in groups}


def stage_axes(
    config: Config,
    trials: Trials,
    stage: str,
    data: TrialData,
    validation: TrialData | None = None,
) -> Axes:
    """Return the member axes of a stage, of its training and of its validation examples."""
    state: PyTree = 0
    if stage == "head":
        state = TrainState(head_axes(trials), 0, 0)  # pyright: ignore[reportArgumentType] axes
    order = None if "order" in config.share else 0
    return Axes(state, data.axes, order, validation.axes if validation else {})


def from_encoders(name: str, values: np.ndarray, trials: Trials) -> TrialData:
    """Return arrays `[E, ...]` of the encoders as examples of the trials.

    The array of a single encoder is shared: it is on each device once.
    """
    if len(trials.encoders) == 1:
        return TrialData({name: values[0]}, {})
    return TrialData({}, {name: gather(values, trials.encoder_numbers)})


def frozen_encoder(pretrained: Params, trials: Trials) -> PyTree:
    """Return the encoder of stage 2 from the groups `[E, ...]` of stage 1, on the host."""
    encoder = jax.device_get(pretrained[FROZEN])
    # A number as the index drops the axis; an array of numbers keeps it.
    rows = 0 if head_axes(trials)[FROZEN] is None else trials.encoder_numbers
    return jax.tree.map(lambda leaf: leaf[rows], encoder)


def encoder_digest(manifest: Manifest, encoder: PyTree, trials: Trials) -> str:
    """Return the digest of the encoder of stage 2 before that stage.

    If it is the encoder that the manifest describes already, nothing is hashed again.
    """
    # Several trials on each of several encoders make another array of the same encoders.
    same = len(trials.encoders) in (1, len(trials.heads))
    return manifest.groups[FROZEN].sha256 if same and manifest.groups else digest(encoder)


def pretrain_groups(pretrained: Params, trials: Trials) -> Params:
    """Return the groups of stage 1 as users see them."""
    return without_axis(pretrained) if len(trials.encoders) == 1 else pretrained


def head_groups(params: Params, trials: Trials) -> Params:
    """Return the groups of stage 2 as users see them: all trials."""
    return _visible(params, trials, len(trials.heads))


def chosen_pretrained(pretrained: Params, trials: Trials, rows: np.ndarray, members: int) -> Params:
    """Return the groups of stage 1 of the chosen trials as users see them, from `[E, ...]`."""
    chosen = select_pretrained(pretrained, trials, rows)
    return without_axis(chosen) if members == 1 and len(trials.encoders) > 1 else chosen


def chosen_groups(params: Params, trials: Trials, members: int) -> Params:
    """Return the groups of the chosen trials as users see them; `members` is `config.members`."""
    return _visible(params, trials, members)


def chosen_probability(probability: np.ndarray, members: int) -> np.ndarray:
    """Return probabilities `[M, N, K]` as prediction files hold them; `[N, K]` without members."""
    return probability[0] if members == 1 else probability


def _visible(params: Params, trials: Trials, members: int) -> Params:
    params = jax.device_get(params)
    if members > 1:
        return params
    return map_members(lambda leaf: leaf[0], head_axes(trials, params), params)


def without_axis(params: Params) -> Params:
    """Return the groups of the first training, on the host."""
    return jax.tree.map(lambda leaf: leaf[0], jax.device_get(params))


def load_pretrained(folder: Path, manifest: Manifest, networks: Networks, trials: Trials) -> Params:
    """Load the groups `[E, ...]` of stage 1, on the host.

    Raises:
        Corrupted: if they differ from their checkpoint's table or from the manifest.
    """
    init = networks.pretrain({}).init
    shape = manifest.preprocessing.image_shape
    expected = jax.eval_shape(init, new_key(), batch_spec(shape))
    members = len(trials.encoders)
    expected = _with_axis(expected, members)
    settings = manifest.config.get("pretrain")
    if isinstance(settings, dict) and settings.get("select") == "probe":
        best = _load(folder, "pretrain", best_shapes(expected, members), BEST)
        params = best["params"]
    else:
        params = _load(folder, "pretrain", expected)
    groups = pretrain_groups(params, trials)
    # After stage 2, the manifest describes an encoder for each trial.
    if manifest.frozen is not None and len(trials.encoders) > 1:
        groups = groups | {FROZEN: frozen_encoder(params, trials)}
    _check_groups(
        folder / "pretrain", groups, {**_digests(manifest), FROZEN: source_digest(manifest)}
    )
    return params


def source_digest(manifest: Manifest) -> str | None:
    """Return the digest of the encoder of stage 1; None before that stage has finished.

    After stage 2, the group `encoder` in the manifest may be one that stage 2 has trained.
    """
    if manifest.frozen is not None and not manifest.frozen.unchanged:
        return manifest.frozen.before
    return _digests(manifest).get(FROZEN)


def _digests(manifest: Manifest) -> dict[str, str | None]:
    return {name: group.sha256 for name, group in manifest.groups.items()}


def select_pretrained(pretrained: Params, trials: Trials, rows: np.ndarray) -> Params:
    """Return the groups of stage 1 of some trials, from the groups `[E, ...]` of all encoders.

    They have the axis of the trials, or none if all trials share one encoder.
    """
    if len(trials.encoders) == 1:
        return without_axis(pretrained)
    encoders = trials.encoder_numbers[rows]
    return jax.tree.map(lambda leaf: leaf[encoders], jax.device_get(pretrained))


def load_heads(
    folder: Path, manifest: Manifest, networks: Networks, trials: Trials, sizes: Sizes
) -> Params:
    """Load the groups of stage 2, on the host: `head` `[R, ...]`, `encoder` as `head_axes` says.

    Raises:
        Corrupted: if they differ from their checkpoint's table or from the manifest.
    """
    numbers = first_numbers(own_numbers(trials, networks))
    if networks.prepared:
        # Their shapes depend on the number of images.
        expected = _recorded_shapes(manifest, networks, trials)
    else:
        expected = stacked_shapes(
            head_shapes(networks, sizes.labelled, sizes.validation, numbers), trials
        )
    params = _load(folder, "head", expected)
    _check_groups(folder / "head", head_groups(params, trials), _digests(manifest))
    return params


def stacked_shapes(shapes: Params, trials: Trials) -> Params:
    """Return the shapes of the groups of stage 2 of all trials, from those of one trial."""
    axes = head_axes(trials, shapes)
    return {
        name: group if axes[name] is None else _with_axis(group, len(trials.heads))
        for name, group in shapes.items()
    }


def _recorded_shapes(manifest: Manifest, networks: Networks, trials: Trials) -> Params:
    """Return the shapes of the groups of stage 2 of all trials, as the manifest describes them."""
    expected = stacked_shapes({FROZEN: networks.encoder_shapes}, trials)
    for name in ("head", BANK):
        leaves = manifest.groups[name].leaves if name in manifest.groups else {}
        group: PyTree = {}
        for path, leaf in leaves.items():
            *folders, last = path.split("/")
            inside = group
            for folder in folders:
                inside = inside.setdefault(folder, {})
            inside[last] = jax.ShapeDtypeStruct(tuple(leaf.shape), np.dtype(leaf.dtype))
        # The manifest describes groups as users see them: a single trial has no axis.
        single = len(trials.heads) == 1 and head_axes(trials, (name,))[name] == 0
        if group:
            expected[name] = _with_axis(group, 1) if single else group
    return expected


def _with_axis(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), tree)


def _load(folder: Path, stage: str, expected: PyTree, tree: str = "params") -> PyTree:
    if not (folder / stage).is_dir():
        raise Corrupted(f"{folder} has no stage {stage}: give a run that has finished it")
    return Store(folder / stage).load({tree: expected}).trees[tree]


def _check_groups(where: Path, params: Params, digests: Mapping[str, str | None]) -> None:
    """Raise `Corrupted` if a group is not the one that the manifest describes."""
    for name, group in describe_groups(params).items():
        if digests.get(name) != group.sha256:
            raise Corrupted(
                f"{where}: group {name} is not the one that manifest.json describes; the run is "
                "corrupted or unfinished"
            )
