"""The commands `twostage predict` and `twostage export`."""

from twostage_jax.config.deploy import Export, Predict
from twostage_jax.show.terminal import Terminal


def deploy(command: Predict | Export, terminal: Terminal) -> None:
    """Execute a parsed command."""
    # Imported here: predicting with a file does not need the packages of a run.
    if isinstance(command, Predict):
        from twostage_jax.runs.deploy.predict import predict_command

        predict_command(command, terminal)
        return
    from twostage_jax.runs.deploy.export import export_command

    export_command(command, terminal)
