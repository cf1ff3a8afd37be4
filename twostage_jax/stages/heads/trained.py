"""Heads that are trained by gradient descent, and the stage of an encoder with a head."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.typing import ArrayLike

from twostage_jax.errors import UserError
from twostage_jax.stages.freezing import by_group, only_matching
from twostage_jax.stages.heads.labels import check_labels, class_labels
from twostage_jax.stages.heads.losses import Arrays, Loss, cross_entropy, make_loss
from twostage_jax.stages.modules import (
    dropout_key,
    fix_statistics,
    forward,
    init_module,
    init_on_features,
    make_finish,
)
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.stage import Batch, Head, Key, Metrics, Params, Scalar, Stage
from twostage_jax.trees import PyTree


def mlp(
    classes: int,
    widths: tuple[int, ...] = (64,),
    torch_init: bool = False,
    label_smoothing: Scalar = 0.0,
    loss: str = "cross-entropy",
    transition: ArrayLike | None = None,
    examples: int | None = None,
    q: Scalar = 0.7,
    elr_weight: Scalar = 3.0,
    elr_momentum: Scalar = 0.7,
) -> Head:
    """Multilayer perceptron trained by softmax cross-entropy, or by a loss for wrong labels.

    Args:
        classes: number of classes K.
        widths: widths of the hidden layers.
        torch_init: PyTorch's initial values instead of Flax's, see `MLP`.
        label_smoothing: see `classifier`; for `cross-entropy`.
        loss: `cross-entropy`; `gce`, generalised cross-entropy (Zhang and Sabuncu, 2018); `elr`,
            early-learning regularisation (Liu et al., 2020); `forward`, correction by a transition
            matrix (Patrini et al., 2017). See `stages.heads.losses`.
        transition: for `forward`, the probabilities `[K, K]` of each label (column) for each true
            class (row); by default it is estimated while the head trains.
        examples: for `elr`, the number of training examples N. Their batches hold `index`.
        q: for `gce`, in (0, 1]: cross-entropy for q → 0, mean absolute error for 1.
        elr_weight: for `elr`, weight of the regularisation, at least 0.
        elr_momentum: for `elr`, share of the earlier predictions in the memory, in [0, 1).

    Raises:
        UserError: an unknown loss, a number out of range, a transition matrix that is not
            stochastic, an argument of another loss.

    >>> import twostage_jax as ts
    >>> head = ts.mlp(3)
    >>> params = jax.jit(head.stage.init)(jax.random.key(0), {"image": jnp.ones((5, 8))})
    >>> head.logits(params, jnp.ones((5, 8))).shape
    (5, 3)
    >>> head = ts.mlp(3, loss="gce", q=0.5)
    """
    made = make_loss(
        loss, classes, label_smoothing, transition, examples, q, elr_weight, elr_momentum
    )
    return _module_head(MLP((*widths, classes), torch_init), made)


def finetune(
    classes: int,
    widths: tuple[int, ...] = (64,),
    torch_init: bool = False,
    label_smoothing: Scalar = 0.0,
    loss: str = "cross-entropy",
    transition: ArrayLike | None = None,
    examples: int | None = None,
    q: Scalar = 0.7,
    elr_weight: Scalar = 3.0,
    elr_momentum: Scalar = 0.7,
    learning_rate: Scalar | None = None,
    encoder_learning_rate: Scalar | None = None,
    unfreeze: str | None = None,
) -> Head:
    """Head `mlp` that also trains the encoder, starting from its pretrained values.

    The encoder is applied as in evaluation: without dropout, and with the statistics of batch
    normalisation that stage 1 has fixed.

    Args:
        classes: number of classes K; the arguments that follow are those of `mlp`.
        widths: widths of the hidden layers.
        torch_init: PyTorch's initial values for the head.
        label_smoothing: see `mlp`.
        loss: see `mlp`.
        transition: see `mlp`.
        examples: see `mlp`.
        q: see `mlp`.
        elr_weight: see `mlp`.
        elr_momentum: see `mlp`.
        learning_rate: step size of the optimiser; only needed with `encoder_learning_rate`.
        encoder_learning_rate: step size for the encoder; by default a tenth of the optimiser's.
        unfreeze: pattern, with `*` and `?`, over paths such as `encoder/params/Dense_1/kernel`.
            Only parameters whose path matches are trained; by default all of the encoder's.

    Raises:
        UserError: as `mlp`; an `encoder_learning_rate` without a `learning_rate`; from the
            optimiser's `init`, a pattern that matches no parameter.

    >>> import twostage_jax as ts
    >>> stage = ts.attach(ts.MLP((8,)), ts.finetune(3))
    >>> tx = stage.optimiser(ts.adam(1e-3))  # 1e-4 for the encoder
    """
    head = mlp(
        classes,
        widths,
        torch_init,
        label_smoothing,
        loss,
        transition,
        examples,
        q,
        elr_weight,
        elr_momentum,
    )
    ratio = 0.1
    if encoder_learning_rate is not None:
        if learning_rate is None:
            raise UserError("encoder_learning_rate is relative to learning_rate: give both")
        ratio = encoder_learning_rate / learning_rate

    def tune(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        # The updates of the run's optimiser are proportional to its learning rate.
        scaled = optax.chain(tx, optax.scale(ratio))
        return scaled if unfreeze is None else only_matching(scaled, unfreeze, "encoder")

    return head._replace(tune=tune)


def attach(encoder: nn.Module, head: Head, frozen: bool = False) -> Stage:
    """Stage that trains `head` on the features of `encoder`. Groups: `encoder`, `head`.

    Nothing is frozen here: train it with `freeze(tx, "encoder")` for a head on fixed features, or
    with a plain optimiser to fine-tune everything. With `Identity()` as the encoder, `loss` takes
    batches of features. If `head` adapts the optimiser (`finetune`, the loss `elr`),
    the stage has an `optimiser`: train it with `stage.optimiser(tx)`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: trained head.
        frozen: apply the encoder as in evaluation: without dropout, with fixed statistics. A head
            of `finetune` always does.

    Raises:
        UserError: a head that is solved, not trained.

    >>> import twostage_jax as ts
    >>> stage = ts.attach(ts.MLP((8,)), ts.mlp(3))
    >>> sorted(jax.eval_shape(stage.init, jax.random.key(0), {"image": jnp.ones((5, 2, 2, 1))}))
    ['encoder', 'head']
    """
    if head.stage is None:
        raise UserError("the head has no stage to train: call its solve on features instead")
    head_stage = head.stage
    as_evaluated = frozen or head.tune is not None

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        # A key of its own, or equal layers of encoder and head would drop alike.
        encoder_key = None if as_evaluated else dropout_key(key, 0)
        features = forward(encoder, params["encoder"], batch["image"], encoder_key)
        return head_stage.loss(params["head"], key, {**batch, "image": features})

    def finish(params: Params, images: jax.Array) -> Params:
        if not as_evaluated:
            params = finish_encoder(params, images)
        if head_stage.finish is None:
            return params
        features = forward(encoder, params["encoder"], images)
        return {**params, "head": head_stage.finish(params["head"], features)}

    def optimiser(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        head_tx = tx if head_stage.optimiser is None else head_stage.optimiser(tx)
        return by_group({"encoder": tx if head.tune is None else head.tune(tx), "head": head_tx})

    finish_encoder = make_finish(encoder)
    adapts = head.tune is not None or head_stage.optimiser is not None
    init = init_on_features(encoder, "head", head_stage.init)
    return Stage(init, loss, finish, optimiser if adapts else None)


def classifier(
    encoder: nn.Module,
    head: nn.Module,
    label_smoothing: Scalar = 0.0,
    frozen: bool = False,
    loss: Loss | None = None,
) -> Stage:
    """Softmax cross-entropy of `head(encoder(image))`, weighted by `weight`; adds `accuracy`.

    Groups: `encoder`, `head`. Nothing is frozen here, see `attach`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: Linen module, features to logits `[B, K]`.
        label_smoothing: share of the label that is spread over all classes, in [0, 1) (Szegedy et
            al., "Rethinking the Inception Architecture", 2016); may be a traced array.
        frozen: see `attach`.
        loss: another loss, from `stages.heads.losses`, instead of the cross-entropy.

    Raises:
        UserError: `label_smoothing` outside [0, 1); from `init`, labels that are no class of the
            head. If labels are traced, the loss is NaN instead. The label of an example of weight
            0 may have any value.

    >>> import twostage_jax as ts
    >>> stage = ts.classifier(ts.MLP((8,)), ts.MLP((3,)))
    >>> batch = ts.as_batch({"image": jnp.zeros((2, 4, 4, 1)), "label": [0, 1]})
    >>> params = stage.init(jax.random.key(0), batch)
    >>> loss, metrics = stage.loss(params, jax.random.key(1), batch)
    >>> round(float(loss), 4), sorted(metrics)
    (1.0986, ['accuracy', 'count'])
    """
    return attach(encoder, _module_head(head, loss or cross_entropy(label_smoothing)), frozen)


def make_logits(
    encoder: nn.Module, head: nn.Module | Head
) -> Callable[[Params, jax.Array], jax.Array]:
    """Make `(params, image [B, H, W, C]) -> logits [B, K]`, for instance for `ts.evaluate`.

    The function takes images as `ts.as_image` returns them: floats in [-1, 1]. Floats of another
    range are not detected; they give other, usually worse, predictions.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features.
        head: Linen module or `Head`, features to logits.

    Raises:
        UserError: from the function, if images are integers such as uint8.

    >>> import twostage_jax as ts
    >>> encoder = ts.MLP((8,))
    >>> head = ts.MLP((3,))
    >>> image = jnp.ones((2, 4, 4, 1))
    >>> stage = ts.classifier(encoder, head)
    >>> params = jax.eval_shape(stage.init, jax.random.key(0), {"image": image})
    >>> jax.eval_shape(ts.make_logits(encoder, head), params, image).shape
    (2, 3)
    """
    # A pair of Linen modules needs no `Head` to be evaluated.
    head_logits = head.logits if isinstance(head, Head) else partial(forward, head)

    def logits(params: Params, image: jax.Array) -> jax.Array:
        return head_logits(params["head"], forward(encoder, params["encoder"], image))

    return logits


def _module_head(module: nn.Module, loss_function: Loss) -> Head:
    """Head of a Linen module; its parameters are what the module's `init` returns.

    The loss may add arrays to the collection `params`.
    """

    def split(variables: PyTree) -> tuple[PyTree, Arrays]:
        if not loss_function.optimisers:
            return variables, {}
        trained = dict(variables["params"])
        arrays = {name: trained.pop(name) for name in loss_function.optimisers if name in trained}
        return {**variables, "params": trained}, arrays

    def logits(params: PyTree, features: jax.Array) -> jax.Array:
        return forward(module, split(params)[0], features)

    def init(key: Key, batch: Batch) -> PyTree:
        variables = init_module(module, key, batch["image"])
        output = jax.eval_shape(partial(forward, module), variables, batch["image"])
        classes = output.shape[-1]
        if "label" in batch and "weight" in batch:
            check_labels(batch["label"], batch["weight"], classes)
        arrays = loss_function.arrays(classes)
        return {**variables, "params": {**variables["params"], **arrays}} if arrays else variables

    def loss(params: PyTree, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        variables, arrays = split(params)
        output = forward(module, variables, batch["image"], key).astype(jnp.float32)
        return _mean_loss(loss_function, arrays, output, batch, key)

    def finish(params: PyTree, features: jax.Array) -> PyTree:
        return fix_statistics(module, params, features)

    def optimiser(tx: optax.GradientTransformation) -> optax.GradientTransformation:
        adapted = {name: adapt(tx) for name, adapt in loss_function.optimisers.items()}

        def label(params: PyTree) -> PyTree:
            return jax.tree_util.tree_map_with_path(
                lambda path, _: _last(path) if _last(path) in adapted else "rest", params
            )

        return optax.multi_transform(
            {"rest": tx, **adapted}, label, mask_compatible_extra_args=True
        )

    stage = Stage(init, loss, finish, optimiser if loss_function.optimisers else None)
    return Head(logits, stage=stage, module=module)


def _last(path: tuple) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)


def _mean_loss(
    loss_function: Loss, arrays: Arrays, logits: jax.Array, batch: Batch, key: Key | None
) -> tuple[jax.Array, Metrics]:
    """Weighted mean loss of logits `[B, K]`, with the metrics `accuracy` and `count`."""
    weight = batch["weight"]
    count = weight.sum()
    total = jnp.where(count == 0, 1.0, count)  # if no label counts, the loss is 0 and not 0/0
    label = class_labels(batch["label"], weight, logits.shape[-1])
    losses, term = loss_function.value(arrays, logits, {**batch, "label": label}, key)
    undefined = jnp.isnan(losses) | jnp.isnan(logits).any(-1)
    hits = jnp.where(undefined, jnp.nan, logits.argmax(-1) == label)
    accuracy = (weight * hits).sum() / total
    return (weight * losses).sum() / total + term, {"accuracy": accuracy, "count": count}
