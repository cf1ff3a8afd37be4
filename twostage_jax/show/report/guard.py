"""Sections on the limits of the result: images of no class, copies across splits, groups."""

from twostage_jax.show.duplicates import split_words
from twostage_jax.show.report.blocks import (
    Block,
    Fact,
    Facts,
    Gallery,
    Picture,
    Section,
    Table,
    Text,
)
from twostage_jax.show.report.checks import csv_table
from twostage_jax.show.report.content import Content
from twostage_jax.show.report.result import interval_words, share_words
from twostage_jax.show.tables import counted

GROUPS = 30  # groups in the table, those with the lowest accuracy


def rejection_section(content: Content) -> Section | None:
    """Section on images that belong to none of the classes."""
    rejection = getattr(content.result, "rejection", None)
    if rejection is None:
        return None
    score = ", ".join(rejection.limits) if rejection.limits else rejection.score.replace("_", " ")
    facts = [
        Fact("score", score, rejection.chosen_by),
        Fact(
            "test images rejected",
            share_words(rejection.known_rejected),
            f"the threshold aims at {share_words(rejection.target)}",
        ),
    ]
    if rejection.accepted_accuracy is not None:
        accuracy = share_words(rejection.accepted_accuracy)
        facts.append(Fact("accuracy of the others", accuracy, "test images that are accepted"))
    if rejection.other_rejected is not None:
        images = counted(rejection.other_count, "test image")
        facts.append(
            Fact(
                f"{rejection.other_class} rejected",
                share_words(rejection.other_rejected),
                f"of {images} of this class; nothing was trained on it",
            )
        )
    words = (
        "An image is rejected if it is unlike the images of all classes. The answer is then “none "
        "of the above”. The threshold was fitted on "
        f"{counted(rejection.count, 'validation image')}."
    )
    return Section("rejection", "None of the above", [Text(words), Facts(facts)])


def duplicates_section(content: Content) -> Section | None:
    """Section on test and validation images that have a copy in an earlier split."""
    record = getattr(content.result, "duplicates", None)
    if record is None:
        return None
    blocks: list[Block] = []
    kinds = "identical or nearly identical" if record.near else "identical"
    if not record.pairs:
        words = f"No {kinds} images are in two splits."
    else:
        parts = [
            f"{counted(pairs.identical + pairs.near, f'{pairs.later} image')} also in "
            f"{split_words(pairs.earlier)} ({pairs.identical:,} identical, {pairs.near:,} nearly "
            "identical)"
            for pairs in record.pairs
        ]
        words = f"Images that are in two splits: {'; '.join(parts)}."
    blocks.append(Text(words))
    if record.test_without is not None:
        scores = record.test_without
        accuracy = share_words(scores.accuracy, scores.count)
        interval = interval_words(scores.interval, scores.count)
        images = counted(scores.count, "test image")
        blocks.append(
            Text(f"Without the copies, the accuracy on {images} is {accuracy} ({interval}).")
        )
    if record.reason:
        blocks.append(Text(f"{record.reason[0].upper()}{record.reason[1:]}."))
    pictures = _pairs(content)
    if pictures:
        caption = "Images of validation or test (left) and their copies (right)"
        blocks.append(Gallery(caption, pictures))
    rows = content.tables.get("duplicates")
    if rows is not None and len(rows) > 1:
        blocks.append(csv_table("All pairs, from duplicates.csv", rows))
    return Section("duplicates", "Duplicates", blocks)


def _pairs(content: Content) -> list[Picture]:
    """Pictures of pairs of images, with their classes."""
    arrays = content.arrays
    names = ("image", "copy", "label", "copy_label", "distance")
    if not content.has("duplicate", *names):
        return []
    pictures = []
    columns = (arrays[f"duplicate_{name}"] for name in names)
    for image, copy, label, copy_label, distance in zip(*columns, strict=True):
        name = content.classes[int(label)]
        copy_name = "unlabelled" if copy_label < 0 else content.classes[int(copy_label)]
        kind = "nearly identical" if distance else "identical"
        relabelled = copy_label not in (-1, label)
        second = f"copy: {copy_name}" if relabelled else kind
        alt = f"Image of class {name} and its {kind} copy, {copy_name}"
        pictures.append(Picture([image, copy], alt, (name, second), wrong=bool(relabelled)))
    return pictures


def groups_section(content: Content) -> Section | None:
    """Section on the errors by group of the test split."""
    summary = getattr(content.result, "groups", None)
    if summary is None:
        return None
    blocks: list[Block] = []
    if summary.interval is not None:
        count = sum(group.count for group in summary.groups)
        words = (
            f"For images of new groups, the 95 % interval of the accuracy is "
            f"{interval_words(summary.interval, count)}. The mean accuracy of the groups is "
            f"{share_words(summary.mean)} ({interval_words(summary.mean_interval)})."
        )
        blocks.append(Text(words))
    rows = [
        (
            group.name,
            share_words(group.accuracy),
            interval_words(group.interval),
            f"{group.errors:,}",
            f"{group.count:,}",
        )
        for group in summary.groups[:GROUPS]
    ]
    total = len(summary.groups)
    caption = "Groups of the test split"
    if total > GROUPS:
        caption += f" (the {GROUPS} of {total:,} with the lowest accuracy)"
    columns = ("group", "accuracy", "95 % interval", "errors", "images")
    blocks.append(Table(caption, columns, rows, sortable=True))
    return Section("groups", "Errors by group", blocks)
