"""Sections on the result: the answer, a study of labels, data and training."""

from collections.abc import Mapping, Sequence

import numpy as np

from twostage_jax.show.curves import plot_label_curves
from twostage_jax.show.duplicates import LOUD
from twostage_jax.show.epochs import Record, describe_encoder
from twostage_jax.show.plots import plot_panels
from twostage_jax.show.report.blocks import (
    Block,
    Drawing,
    Drawings,
    Fact,
    Facts,
    Section,
    Table,
    Text,
)
from twostage_jax.show.report.content import Content
from twostage_jax.show.tables import counted

FINE = 5000  # images from which a share has two decimals


def share_words(value: float | None, count: int = 0) -> str:
    """Return a share as a percentage; of many images with two decimals.

    >>> share_words(0.96379), share_words(0.97321, 10_000), share_words(None)
    ('96.4 %', '97.32 %', '–')
    """
    if value is None:
        return "–"
    # Rounded down, because 99.96 % must not read as 100 %.
    steps = 10_000 if count >= FINE else 1000
    lowest = np.floor(value * steps + 1e-9) if value > 0.99 else np.round(value * steps)
    return f"{100 * lowest / steps:.{2 if count >= FINE else 1}f} %"


def interval_words(interval: Sequence[float] | None, count: int = 0) -> str:
    """Return `93.9 to 97.9 %`."""
    if interval is None:
        return "–"
    low, high = (share_words(value, count) for value in interval)
    return f"{low.removesuffix(' %')} to {high}"


def answer(content: Content) -> str:
    """Return the first sentence of the page: what the run has shown."""
    result = content.result
    if result is None:
        pretrain = content.manifest.pretrain
        if pretrain is None:
            return "This run has not finished stage 1."
        if content.epochs and content.epochs[-1].stage == "head":
            return _progress_sentence(content)
        epochs = counted(pretrain.epochs, "epoch")
        return f"An encoder was pretrained ({pretrain.objective}, {epochs}); there is no head yet."
    return accuracy_sentence(result)


def _progress_sentence(content: Content) -> str:
    last = content.epochs[-1]
    settings = content.manifest.config.get("head") or {}
    words = f"Stage 2 is in training: epoch {last.epoch} of {settings.get('epochs')}"
    for split, figures in (("validation", last.validation), ("training", last.metrics)):
        if figures.get("accuracy") is not None:
            return f"{words}, {split} accuracy {share_words(figures['accuracy'])}."
    return f"{words}."


def accuracy_sentence(result: Record) -> str:
    """Return the test accuracy with its interval, in one sentence."""
    test = result.test
    right = share_words(test.accuracy, test.count)
    interval = interval_words(test.interval, test.count)
    who = "The classifier"
    if len(result.ensemble.rows) > 1:
        who = f"The ensemble of {len(result.ensemble.rows)} classifiers"
    return (
        f"{who} is right on {right} of {counted(test.count, 'test image')} "
        f"(95 % interval: {interval})."
    )


def result_section(content: Content) -> Section:
    """Section with the answer in one sentence, and the figures of the test split."""
    blocks: list[Block] = [Text(words, "warning") for words in _copies(content.result)]
    if content.study is not None:
        blocks.append(Text(content.study.results["headline"], "answer"))
        blocks.append(Text(answer(content)))
    else:
        blocks.append(Text(answer(content), "answer"))
    result = content.result
    if result is not None:
        blocks.append(Facts(_figures(content), large=True))
        blocks += [Text(words, "warning") for words in _warnings(content)]
    return Section("result", "Result", blocks)


def _copies(result: Record) -> list[str]:
    """Return a sentence about copies in the test split, if they are many."""
    record = getattr(result, "duplicates", None)
    if record is None or record.affected < LOUD * result.test.count:
        return []
    share = share_words(record.affected / result.test.count)
    without = "All test images are copies."
    if record.test_without is not None:
        scores = record.test_without
        without = f"Without them, the accuracy is {share_words(scores.accuracy, scores.count)}."
    copies = f"{record.affected:,} of {counted(result.test.count, 'test image')} ({share})"
    return [
        f"{copies} are copies of images in an earlier split, so the accuracy does not hold for "
        f"new images. {without}"
    ]


def _figures(content: Content) -> list[Fact]:
    result = content.result
    test = result.test
    facts = [
        Fact("test accuracy", share_words(test.accuracy, test.count), _errors(test)),
        Fact(
            "balanced accuracy",
            share_words(test.balanced_accuracy, test.count),
            "mean over the classes",
        ),
    ]
    f1 = getattr(test, "macro_f1", None)
    if f1 is not None:
        facts.append(Fact("macro F1", share_words(f1, test.count), "mean over the classes"))
    if test.worst_class is not None:
        worst = test.per_class_accuracy[test.worst_class]
        name = str(content.classes[test.worst_class])
        facts.append(Fact("worst class", share_words(worst), f"class {name}"))
    facts.append(Fact("negative log-likelihood", f"{test.nll:.4f}", "mean; lower is better"))
    facts.append(
        Fact("calibration error", f"{test.ece:.4f}", "mean gap between confidence and accuracy")
    )
    if result.validation.accuracy is not None:
        count = result.validation.count
        words = share_words(result.validation.accuracy, count)
        facts.append(Fact("validation accuracy", words, counted(count, "image")))
    if result.transductive is not None:
        seen = result.transductive
        note = f"{counted(seen.count, 'training image')} without a label"
        facts.append(Fact("transductive", share_words(seen.accuracy, seen.count), note))
    return facts


def _errors(scores: Record) -> str:
    wrong = scores.count - int(np.trace(scores.confusion))
    return f"{counted(wrong, 'error')} in {counted(scores.count, 'image')}"


def _warnings(content: Content) -> list[str]:
    """Return sentences that qualify the result."""
    result = content.result
    words = []
    if result.test_reads > 1:
        words.append(
            f"The test split was read {result.test_reads} times, so it is no longer a fresh test."
        )
    if result.pretrain.labels:
        labels = counted(result.pretrain.labels, "label")
        words.append(f"Stage 1 used {labels}: this run is no evidence for training without labels.")
    if result.pretrain.collapsed:
        words.append(f"Stage 1: {result.pretrain.collapsed}.")
    words += [f"Left out of the ensemble: {name} diverged." for name in result.ensemble.diverged]
    return words


def study_section(content: Content) -> Section | None:
    """Section with the curves of a study of labels."""
    study = content.study
    if study is None:
        return None
    results = study.results
    columns = ("arm", *(f"{count:,} labels" for count in results["counts"]))
    cells = {(x["arm"], x["labels"]): x for x in results["table"]}
    rows = []
    for arm in results["arms"]:
        entries = [cells[arm, count] for count in results["counts"]]
        errors = (f"{100 * x['mean']:.2f} ± {50 * (x['high'] - x['low']):.2f}" for x in entries)
        rows.append((arm, *errors))
    alt = "Test error over the number of labels, for every arm; the table below has the figures."
    drawing = Drawing("labels", plot_label_curves(results, "page"), alt, wide=True)
    words = f"From the study {study.name}; {results['selection']}."
    caption = "Test error in %, with half of its 95 % interval"
    return Section(
        "study",
        "Labels that pretraining saves",
        [drawing, Table(caption, columns, rows), Text(words)],
    )


def training_section(content: Content) -> Section:
    """Section on the data and both stages."""
    manifest = content.manifest
    config = _chosen_config(manifest.config, content.result)
    height, width, channels = manifest.preprocessing.image_shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    names = ", ".join(content.classes[:20])
    more = "" if len(content.classes) <= 20 else f" and {len(content.classes) - 20} more"
    facts = [
        Fact("data", manifest.data.name, f"fingerprint {manifest.data.fingerprint}"),
        Fact("images", f"{height}×{width}, {kind}", f"values {manifest.data.scale}"),
    ]
    if content.classes:
        facts.append(Fact("classes", f"{len(content.classes):,}", names + more))
    result = content.result
    if result is not None:
        data = result.data
        facts.append(Fact("training labels", f"{data.labelled:,}", _label_note(data)))
        facts.append(Fact("unlabelled images", f"{data.unlabelled:,}", "for stage 1 only"))
        facts.append(Fact("validation images", f"{data.validation:,}", "choices and calibration"))
        facts.append(Fact("test images", f"{data.test:,}", "read after all choices were made"))
    if manifest.pretrain is not None:
        facts.append(Fact("stage 1", *_stage_1(manifest.pretrain, config)))
    if result is not None:
        facts.append(Fact("stage 2", *_stage_2(result, config)))
    blocks: list[Block] = [Facts(facts)]
    panels = plot_panels(content.epochs) if content.epochs else {}
    drawings = []
    for number, (title, svg) in enumerate(panels.items()):
        alt = f"Curve of {title} by epoch, on training and validation images."
        drawings.append(Drawing(f"curve-{number}", svg, alt, title))
    if drawings:
        blocks.append(Drawings(drawings))
    return Section("training", "Data and training", blocks)


def _chosen_config(config: Mapping, result: Record | None) -> Mapping:
    """Return a config with the values of the chosen point of a sweep."""
    sweep = getattr(result, "sweep", None)
    if sweep is None:
        return config
    chosen = {**config}
    for field, value in sweep.points[sweep.chosen].values.items():
        group, _, name = field.rpartition(".")
        if group in ("pretrain", "head"):
            chosen[group] = {**(chosen.get(group) or {}), name.replace("-", "_"): value}
    return chosen


def _label_note(data: Record) -> str:
    noise = f", {100 * data.noise:g} % of them flipped" if data.noise else ""
    return f"of {counted(data.train, 'training image')}{noise}"


def _stage_1(pretrain: Record, config: Mapping) -> tuple[str, str]:
    settings = config.get("pretrain") or {}
    words = [counted(pretrain.epochs, "epoch")]
    if pretrain.loss is not None:
        words.append(f"loss {pretrain.loss:.4f}")
    words += _settings(settings, ("encoder", "batch_size", "learning_rate"))
    if pretrain.augmentation is not None:
        words.append(f"views: {pretrain.augmentation.name} ({pretrain.augmentation.reason})")
    if pretrain.rank is not None:
        words.append(f"{describe_encoder(vars(pretrain))} of {pretrain.features:,}")
    words.append(f"used {counted(pretrain.labels, 'label')}" if pretrain.labels else "no labels")
    return f"{pretrain.objective}", ", ".join(words)


def _stage_2(result: Record, config: Mapping) -> tuple[str, str]:
    head = result.head
    words = [counted(head.epochs, "epoch") if head.epochs else "solved in one call"]
    if head.loss is not None:
        words.append(f"loss {head.loss:.4f}")
    if head.epochs:
        words += _settings(config.get("head") or {}, ("batch_size", "learning_rate"))
    if config.get("class_weights") == "auto":
        words.append("class weights auto")
    words.append("encoder frozen" if result.frozen.groups else "encoder trained too")
    return f"{head.protocol} head", ", ".join(words)


def _settings(settings: Mapping, names: Sequence[str]) -> list[str]:
    return [
        f"{name.replace('_', ' ')} {settings[name]}"
        for name in names
        if settings.get(name) is not None
    ]
