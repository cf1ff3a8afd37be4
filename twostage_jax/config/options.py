"""Options: fields of the configuration that a function requests by a parameter name.

A head with a parameter `loss` gets `--head.loss`. For any other head, the flag is rejected. A new
option is a field in `schema` and a line in `OPTIONS`.
"""

import dataclasses
from collections.abc import Collection, Mapping

from twostage_jax.config.fields import dotted
from twostage_jax.config.groups import GROUPS
from twostage_jax.config.schema import Config
from twostage_jax.config.sweep import swept
from twostage_jax.errors import UserError

# For each option: the fields that name functions, and the parameter that requests the option.
OPTIONS: dict[str, dict[str, str]] = {
    "pretrain.widths": {"pretrain.encoder": "widths", "pretrain.objective": "decoder"},
    "pretrain.norm": {"pretrain.encoder": "norm", "pretrain.objective": "projector"},
    "pretrain.patch": {"pretrain.encoder": "patch", "pretrain.objective": "patch"},
    "augment": {"pretrain.objective": "augment"},
    "augment_strength": {"pretrain.objective": "augment"},
    "head.widths": {"head.protocol": "widths"},
    "head.method": {"head.protocol": "method"},
    "head.class_sizes": {"head.protocol": "class_sizes"},
    "head.loss": {"head.protocol": "loss"},
    "head.unfreeze": {"head.protocol": "unfreeze"},
    "head.encoder_learning_rate": {"head.protocol": "encoder_learning_rate"},
}


def read_option(config: Config, path: str) -> object:
    """Return the value of an option such as `head.loss`."""
    group, _, name = path.rpartition(".")
    return getattr(getattr(config, group) if group else config, name)


def offered_options(config: Config, function: str) -> dict[str, object]:
    """Return the given options of a function, by parameter name.

    >>> offered_options(Config(head={"loss": "gce"}), "head.protocol")
    {'loss': 'gce'}
    """
    values = {
        askers[function]: read_option(config, path)
        for path, askers in OPTIONS.items()
        # The module `decoder` is not a value of the configuration.
        if path.rpartition(".")[2] == askers.get(function)
    }
    return {name: value for name, value in values.items() if value is not None}


def check_options(config: Config, asked: Mapping[str, Collection[str]]) -> None:
    """Check that a function requests each option that is given or swept.

    Args:
        config: configuration that the user gave, completed with the values of an earlier run.
        asked: parameter names of each function, by its field, such as `head.protocol`.

    Raises:
        UserError: An option that no function requests.
    """
    for path in _unused(asked):
        flag = dotted(path.rpartition(".")[2], path.rpartition(".")[0])
        is_swept = flag in swept(config)
        if read_option(config, path) is None and not is_swept:
            continue
        option = f"--sweep {flag}" if is_swept else f"--{flag}"
        names = " and ".join(str(read_option(config, field) or field) for field in OPTIONS[path])
        raise UserError(f"{option} has no effect on {names}: leave it out")


def without_unused(config: Config, asked: Mapping[str, Collection[str]]) -> Config:
    """Return a resolved configuration without the options that no function requests."""
    for path in _unused(asked):
        group, _, name = path.rpartition(".")
        if group in GROUPS:
            changed = dataclasses.replace(getattr(config, group), **{name: None})
            config = dataclasses.replace(config, **{group: changed})
        else:
            config = dataclasses.replace(config, **{name: None})
    return config


def _unused(asked: Mapping[str, Collection[str]]) -> list[str]:
    return [
        path
        for path, askers in OPTIONS.items()
        if not any(parameter in asked[field] for field, parameter in askers.items())
    ]
