"""Lines about duplicates across splits, at the start of a run and beside its test accuracy."""

from collections.abc import Mapping, Sequence

from twostage_jax.show.epochs import Record
from twostage_jax.show.tables import counted, decimal
from twostage_jax.show.terminal import Terminal

LOUD = 0.02  # share of copies from which on they are a warning


def show_duplicates(
    pairs: Sequence[tuple[str, str, int, int]],
    sizes: Mapping[str, int],
    near: bool,
    reason: str,
    terminal: Terminal,
) -> None:
    """Print the numbers of images that have a copy in an earlier split.

    Args:
        pairs: earlier split, later split, number of identical copies, number of all copies.
        sizes: number of images by split.
        near: True if nearly identical images were searched.
        reason: sentence that says what was not searched, or empty.
        terminal: where to print.
    """
    for earlier, later, identical, count in pairs:
        share = count / sizes[later]
        kinds = f"{identical:,} identical, {count - identical:,} nearly identical"
        verb = "is" if count == 1 else "are"
        images = counted(sizes[later], f"{later} image")
        text = f"{count:,} of {images} {verb} also in {split_words(earlier)}"
        if share >= LOUD:
            text = f"{text} ({100 * share:.1f} %; {kinds})"
            terminal.warn(f"{text}: scores on {later} do not hold for new images")
        else:
            terminal.line(f"duplicates: {text} ({kinds})", hang=2)
    if not pairs:
        kinds = "identical or nearly identical" if near else "identical"
        terminal.line(f"duplicates: no {kinds} images across splits", hang=2)
    if reason:
        terminal.line(reason, hang=2)


def split_words(name: str) -> str:
    """Return a split in words; "unlabelled" alone would not be a noun."""
    return "the unlabelled images" if name == "unlabelled" else name


def show_affected(record: Record, count: int, terminal: Terminal) -> None:
    """Print the test images that have a copy, before the test accuracy.

    Args:
        record: `runs.DuplicatesRecord`, or None.
        count: number of test images.
        terminal: where to print.
    """
    if record is None or not record.affected:
        return
    share = record.affected / count
    if share >= LOUD:
        text = f"{record.affected:,} of {counted(count, 'test image')} ({100 * share:.1f} %)"
        terminal.warn(
            f"{text} are copies of images in an earlier split: the test accuracy does not hold "
            "for new images"
        )


def affected_text(record: Record, count: int) -> str | None:
    """Return the accuracy without the affected test images in words, or None if there are none.

    Args:
        record: `runs.DuplicatesRecord`, or None.
        count: number of test images.
    """
    if record is None or not record.affected:
        return None
    if record.test_without is None:
        return "every test image is a copy (duplicates.csv)"
    scores = record.test_without
    images = counted(scores.count, "image")
    copies = "copy" if record.affected == 1 else "copies"
    text = f"accuracy {decimal(scores.accuracy)} without {record.affected:,} {copies}"
    return f"{text} ({images}; duplicates.csv)"


def show_overlap(counts: Mapping[str, int], total: int, terminal: Terminal) -> None:
    """Print how many of the evaluated images the run has seen, by split of the run."""
    for split, count in counts.items():
        text = f"{count:,} of {counted(total, 'image')} ({100 * count / total:.1f} %)"
        if split == "train":
            text = f"{text} are training images of the run"
        elif split == "unlabelled":
            text = f"{text} were in stage 1 of the run, without labels"
        else:
            text = f"{text} are validation images of the run"
        if split == "train" and count >= LOUD * total:
            terminal.warn(f"{text}: the accuracy is not that of new images")
        else:
            terminal.line(text, hang=2)
