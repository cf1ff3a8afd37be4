"""Lines about images that are rejected, because they belong to none of the classes."""

from twostage_jax.errors import shortened
from twostage_jax.show.epochs import Record
from twostage_jax.show.tables import counted
from twostage_jax.show.terminal import Terminal

NAME_LIMIT = 30  # characters of a class name


def rejection_lines(rejection: Record) -> list[str]:
    """Return the rejected shares of `store.Rejection` in words, without the name of the field."""
    text = f"{100 * rejection.known_rejected:.1f} % of test ({score_words(rejection)})"
    if rejection.accepted_accuracy is not None:
        text += f"; accuracy of the rest {rejection.accepted_accuracy:.4f}"
    if rejection.other_rejected is None:
        return [text]
    images = counted(rejection.other_count, "test image")
    name = shortened(rejection.other_class, NAME_LIMIT)
    return [text, f"{100 * rejection.other_rejected:.1f} % of {images} of class {name}"]


def show_rejection(
    rejection: Record,
    shares: Record,
    names: tuple[str, str | None, str | None],
    terminal: Terminal,
) -> None:
    """Print the shares that a threshold rejects, for `twostage evaluate`.

    Args:
        rejection: `store.Rejection`.
        shares: `runs.RejectedShares`.
        names: names of the evaluated split, of the out-of-distribution source and of the other
            class; None for what is not there.
        terminal: where to print.
    """
    terminal.line(f"rejected by {score_words(rejection)}", bold=True)
    text = f"  {100 * shares.inside:.1f} % of {names[0]}"
    if shares.accuracy is not None:
        text += f"; accuracy of the rest {shares.accuracy:.4f}"
    terminal.line(text, hang=4)
    for share, name in zip((shares.ood, shares.other), names[1:], strict=True):
        if share is not None and name is not None:
            terminal.line(f"  {100 * share:.1f} % of {shortened(name, NAME_LIMIT)}", hang=4)


def score_words(rejection: Record) -> str:
    """Return the names of the outlier scores that reject images."""
    if rejection.limits:
        return ", ".join(rejection.limits)
    return rejection.score.replace("_", " ")
