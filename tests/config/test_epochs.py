"""Numbers of epochs that follow from the number of examples."""

import pytest

from twostage_jax.config.epochs import default_epochs, resolve_epochs
from twostage_jax.config.layers import from_dict, resolve, to_dict
from twostage_jax.config.presets import LEAST_STEPS, MOST_EPOCHS, STEPS
from twostage_jax.config.schema import Config

COUNTS = {"pretrain": 1295, "head": 50}


def resolved(**options):
    return resolve_epochs(resolve(Config(**options), (8, 8, 1), 3), COUNTS)


@pytest.mark.parametrize("examples", [1, 100, 5000, 20_000, 55_000, 10**6])
def test_the_steps_are_those_of_the_preset_within_the_limits(examples):
    batch = 256
    steps = -(-examples // batch)
    epochs = default_epochs(3870, examples, batch)
    assert LEAST_STEPS <= epochs * steps
    # Whole epochs: half an epoch more or less.
    assert abs(epochs * steps - 3870) <= steps / 2 or epochs in (1, max(MOST_EPOCHS, LEAST_STEPS))


def test_mnist_has_eighteen_epochs_and_a_tiny_set_as_many_as_its_steps_need():
    assert default_epochs(STEPS["few-labels"], 55_000, 256) == 18
    assert default_epochs(3870, 10, 256) == LEAST_STEPS


@pytest.mark.parametrize("preset", STEPS)
def test_each_stage_counts_its_own_examples_and_a_given_number_stays(preset):
    config = resolved(preset=preset, head={"protocol": "mlp"})
    for stage, count in COUNTS.items():
        settings = getattr(config, stage)
        assert settings.epochs == default_epochs(STEPS[preset], count, settings.batch_size)
    assert resolve_epochs(config, {"pretrain": 9, "head": 9}) == config
    assert resolved(preset=preset, pretrain={"epochs": 3}).pretrain.epochs == 3
    assert resolved(preset=preset, pretrain={"epochs": 0}).pretrain.epochs == 0


def test_a_stored_config_keeps_its_epochs_and_a_solved_head_has_none():
    config = resolved(preset="few-labels")
    assert config.head.epochs is None
    stored = from_dict(to_dict(config), "here")
    assert resolve_epochs(stored, {"pretrain": 10**6, "head": 10**6}) == config
    assert resolved(preset="quick") == resolve(Config(preset="quick"), (8, 8, 1), 3)
