"""Noise studies from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twostage_jax.config.groups import PretrainConfig
from twostage_jax.config.studies import NoiseStudy
from twostage_jax.runs.study.context import Values
from twostage_jax.runs.study.start import run_study
from twostage_jax.show.terminal import Terminal


def study_noise(
    run: Path | str | None = None,
    *,
    out: Path | str | None = None,
    rates: Sequence[float] | str | None = None,
    asymmetric: Sequence[float] | str | None = None,
    arms: Sequence[str] | str | None = None,
    draws: int | None = None,
    terminal: Terminal | None = None,
    **options: Any,
) -> Values:
    """Measure accuracy under wrong labels, as `twostage study noise` does.

    Args:
        run: folder of the run whose encoder is used; without it, the study trains an encoder first.
        out: folder of the study; by default a new one below `runs`.
        rates: shares of labels that are flipped to any other class, each in [0, 1).
        asymmetric: shares of labels that are flipped to the next class.
        arms: `frozen` or `random` with a head and a loss, such as `frozen:mlp-gce` or
            `random:knn-50`; or `supervised`.
        draws: draws of the noise for each rate, 3 by default.
        terminal: where to print; `Terminal(quiet=True)` prints nothing.
        options: other flags of the command by their names, such as `data`, `seed`, `epochs`,
            `transition` (a path), `pretrain` (a `PretrainConfig`) or `resume`.

    Returns:
        Content of `study.json`. `["results"]["table"]` has the figures, `["results"]["advice"]` has
        the advice.

    Raises:
        UserError: options that are malformed or do not fit the data, the run or the folder.

    >>> import twostage_jax as ts
    >>> from twostage_jax.show.terminal import Terminal
    >>> options = {"rates": [0.4], "asymmetric": "none", "arms": "frozen:knn-20", "draws": 1}
    >>> pretrain = ts.PretrainConfig(epochs=1)
    >>> study = ts.study_noise(pretrain=pretrain, terminal=Terminal(quiet=True), **options)
    >>> study["results"]["advice"][0]["chosen"]
    'frozen:knn-20'
    """
    study = NoiseStudy(
        from_=None if run is None else Path(run).expanduser(),
        out=None if out is None else Path(out),
        rates=rates,  # pyright: ignore[reportArgumentType] `Study` converts lists
        asymmetric=asymmetric,  # pyright: ignore[reportArgumentType] `Study` converts lists
        arms=arms,  # pyright: ignore[reportArgumentType] `Study` converts lists
        draws=draws,  # pyright: ignore[reportArgumentType] None means not given
        **{"pretrain": PretrainConfig(), **options},
    )
    return run_study(study, terminal or Terminal())[1]
