"""Sections that support the result: files, ensemble, proof, times, commands."""

import shlex
from collections.abc import Sequence

from twostage_jax.show.epochs import Record
from twostage_jax.show.plots import plot_sweep
from twostage_jax.show.rejection import score_words
from twostage_jax.show.report.blocks import (
    Block,
    Commands,
    Drawing,
    Fact,
    Facts,
    Gallery,
    Picture,
    Section,
    Table,
    Text,
)
from twostage_jax.show.report.charts import plot_members
from twostage_jax.show.report.content import Content
from twostage_jax.show.report.result import interval_words, share_words
from twostage_jax.show.tables import counted

SHOWN = 200  # rows of a csv file on the page


def rejection_section(content: Content) -> Section | None:
    """Section on images of no known class."""
    rejection = getattr(content.result, "rejection", None)
    if rejection is None:
        return None
    aim = f"at most {share_words(rejection.target)} was the aim"
    facts = [
        Fact("score", score_words(rejection), rejection.chosen_by),
        Fact("threshold", f"{rejection.threshold:.4g}", "images with a higher score are rejected"),
        Fact("rejected", share_words(rejection.known_rejected), f"of the test images; {aim}"),
    ]
    if rejection.accepted_accuracy is not None:
        words = share_words(rejection.accepted_accuracy, content.result.test.count)
        facts.append(Fact("accuracy", words, "of the test images that are not rejected"))
    if rejection.other_rejected is not None:
        images = counted(rejection.other_count, "image")
        note = f"rejected of {images} of the class {rejection.other_class}"
        facts.append(Fact("unknown images", share_words(rejection.other_rejected), note))
    words = "An image that is unlike all classes is rejected: it is “none of the above”."
    return Section("rejection", "None of the above", [Text(words), Facts(facts)])


def duplicates_section(content: Content) -> Section | None:
    """Section on images that are in two splits, with pictures of some pairs."""
    record = getattr(content.result, "duplicates", None)
    if record is None:
        return None
    rows = content.tables.get("duplicates", ())
    blocks: list[Block] = []
    for pairs in record.pairs:
        words = (
            f"{counted(pairs.identical + pairs.near, f'{pairs.later} image')} are also in "
            f"{pairs.earlier}: {pairs.identical:,} identical, {pairs.near:,} nearly identical"
        )
        if pairs.relabelled:
            words += f"; {pairs.relabelled:,} of them have another label there"
        blocks.append(Text(f"{words}.", "warning"))
    if not record.pairs:
        kinds = "identical or nearly identical" if record.near else "identical"
        blocks.append(Text(f"No {kinds} images are in two splits."))
    if record.reason:
        blocks.append(Text(f"Nearly identical images were not searched: {record.reason}."))
    if record.test_without is not None:
        scores = record.test_without
        note = f"{interval_words(scores.interval, scores.count)}; {counted(scores.count, 'image')}"
        with_all = share_words(content.result.test.accuracy, content.result.test.count)
        facts = [
            Fact("test accuracy", with_all, "on all images"),
            Fact("test accuracy", share_words(scores.accuracy, scores.count), f"without: {note}"),
        ]
        blocks.append(Facts(facts))
    pictures = _pairs(content)
    if pictures:
        blocks.append(Gallery("An image, and its copy in an earlier split", pictures))
    if len(rows) > 1:
        blocks.append(_csv_table("All pairs, from duplicates.csv", rows))
    return Section("duplicates", "Duplicates", blocks)


def _pairs(content: Content) -> list[Picture]:
    arrays = content.arrays
    if "duplicate_image" not in arrays:
        return []
    pictures = []
    names = ("duplicate_image", "duplicate_copy", "duplicate_distance", "duplicate_split")
    for image, copy, distance, split in zip(*(arrays[name] for name in names), strict=True):
        kind = f"distance {distance:.3f}" if distance else "identical"
        alt = f"{split} images, {kind}"
        pictures.append(Picture([image, copy], alt, (str(split), kind)))
    return pictures


def broken_section(content: Content) -> Section | None:
    """Section on files that could not be read."""
    rows = content.tables.get("broken")
    if rows is None or len(rows) < 2:
        return None
    words = f"{counted(len(rows) - 1, 'file')} could not be read and {_were(rows)} left out."
    return Section("broken", "Broken files", [Text(words), _csv_table("Files", rows)])


def _were(rows: Sequence) -> str:
    return "was" if len(rows) == 2 else "were"


def _csv_table(caption: str, rows: Sequence[Sequence[str]]) -> Table:
    head, *lines = rows
    if len(lines) > SHOWN:
        caption += f" (the first {SHOWN} of {len(lines):,})"
    # A csv file may have rows of any length.
    shown = [[*line, *[""] * len(head)][: len(head)] for line in lines[:SHOWN]]
    return Table(caption, head, shown, left=len(head), sortable=True)


def ensemble_section(content: Content) -> Section | None:
    """Section on the members of an ensemble."""
    result = content.result
    if result is None or len(result.ensemble.rows) < 2:
        return None
    accuracy = [value for value in result.member_test["accuracy"] if value is not None]
    count = result.test.count
    summary = result.summary
    facts = [
        Fact("ensemble", share_words(result.test.accuracy, count), "mean of the probabilities"),
        Fact(
            "members",
            share_words(summary.accuracy.mean, count),
            f"mean; {share_words(min(accuracy), count)} to {share_words(max(accuracy), count)}",
        ),
        Fact("encoders", f"{result.ensemble.encoders}", "different encoders among the members"),
    ]
    if summary.fewer_errors is not None:
        note = "of the mean member's errors are avoided by the ensemble"
        facts.append(Fact("gain", share_words(summary.fewer_errors), note))
    alt = f"Test accuracy of {len(accuracy)} members and of their ensemble."
    svg = plot_members(accuracy, result.test.accuracy)
    blocks = [Drawing("members", svg, alt, "Test accuracy"), Facts(facts)]
    return Section("ensemble", "Ensemble", blocks)


def sweep_section(content: Content) -> Section | None:
    """Section on the points of a sweep."""
    sweep = getattr(content.result, "sweep", None)
    if sweep is None:
        return None
    blocks: list[Block] = []
    scored = any(point.validation for point in sweep.points)
    if scored:
        alt = "Validation accuracy over the first field of the sweep; a ring marks the choice."
        blocks.append(Drawing("sweep", plot_sweep(sweep, "page"), alt, wide=True))
    rows = []
    for number, point in enumerate(sweep.points):
        values = ", ".join(f"{name} {value:g}" for name, value in point.values.items())
        scores = point.validation or {}
        means = (_mean(scores.get(name)) for name in ("accuracy", "nll"))
        chosen = "chosen" if number == sweep.chosen else ""
        rows.append((values, *means, f"{point.members}", chosen))
    columns = ("point", "validation accuracy", "log-likelihood", "members", "")
    blocks.append(Table(f"Chosen by the {sweep.chosen_by}", columns, rows, sortable=True))
    return Section("sweep", "Sweep", blocks)


def _mean(values: Sequence[float] | None) -> str:
    return f"{sum(values) / len(values):.4f}" if values else "–"


def proof_section(content: Content) -> Section | None:
    """Section with the digests of the encoder before and after stage 2."""
    result = content.result
    if result is None:
        return None
    frozen = result.frozen
    words = "Stage 2 trained the encoder too, so its digest changed."
    if frozen.groups:
        words = "Stage 2 did not change the encoder: the digests of all its numbers are equal."
    facts = [Fact("before stage 2", "", frozen.before), Fact("after stage 2", "", frozen.after)]
    return Section("frozen", "Proof that the encoder was frozen", [Text(words), Facts(facts)])


def environment_section(content: Content) -> Section:
    """Section on times, machine and versions."""
    manifest = content.manifest
    machine = manifest.machine
    blocks: list[Block] = []
    result = content.result
    if result is not None:
        total = result.seconds["total"]
        rows = [
            (name, f"{seconds:.2f}", f"{100 * seconds / total:.0f} %")
            for name, seconds in result.seconds.items()
            if seconds and name != "total" and total
        ]
        rows.append(("total", f"{total:.2f}", ""))
        blocks.append(Table("Seconds of each phase", ("phase", "seconds", "share"), rows))
    cores = counted(machine.cores, "core")
    devices = f"{counted(machine.devices, 'device')}, {cores}"
    facts = [Fact("device", machine.device, devices)]
    if result is not None:
        facts.append(Fact("Python", result.environment.python))
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    facts.append(Fact("versions", "", versions))
    blocks.append(Facts(facts))
    return Section("environment", "Times and environment", blocks)


def repeat_section(content: Content) -> Section:
    """Section with the commands that repeat and use the run."""
    folder = shlex.quote(content.folder)
    lines = [
        f"twostage run --config {shlex.quote(f'{content.folder}/config.json')} --out NEW",
        f"twostage head --from {folder} --out NEW",
    ]
    if content.result is not None:
        lines.append(f"twostage evaluate {folder}")
    lines.append(f"twostage report {folder}")
    words = (
        "The first command repeats the run, to the same bits on the same machine with the same "
        "versions. The others use its encoder for another head, evaluate it, and rebuild this page."
    )
    seed = _seed(content.manifest)
    return Section("repeat", "Repeat it", [Text(words), Commands(lines), Facts([seed])])


def _seed(manifest: Record) -> Fact:
    preset = manifest.config.get("preset")
    note = f"preset {preset}" if preset else ""
    return Fact("seed", f"{manifest.config.get('seed') or 0}", note)
