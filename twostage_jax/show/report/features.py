"""Sections with examples: reconstructions, views, map of features, neighbours, mistakes, epochs."""

import numpy as np

from twostage_jax.show.figure import GREY
from twostage_jax.show.report.blocks import Block, Drawing, Gallery, Picture, Section, Table, Text
from twostage_jax.show.report.charts import FeatureMap, class_colours, plot_map
from twostage_jax.show.report.content import Content
from twostage_jax.show.tables import counted

LEGEND = 40  # classes that are named beside the map; more colours could not be told apart
COLUMNS = ("image", "label", "predicted", "confidence")
EPOCHS = 12  # rows of the table of predictions


def encoder_section(content: Content) -> Section | None:
    """Section on stage 1: reconstructions or views, and a map of the features."""
    arrays = content.arrays
    blocks: list[Block] = []
    if content.has("reconstruction", "image", "decoded"):
        pairs = zip(arrays["reconstruction_image"], arrays["reconstruction_decoded"], strict=True)
        pictures = [Picture(pair, "An image and its reconstruction", ()) for pair in pairs]
        blocks.append(Gallery("Images and their reconstructions from the features", pictures))
    if content.has("view", "image", "first", "second"):
        names = ("view_image", "view_first", "view_second")
        views = zip(*(arrays[name] for name in names), strict=True)
        pictures = [Picture(images, "An image and two views of it") for images in views]
        blocks.append(Gallery("Training images, and two random views of each", pictures))
    if content.has("map", "point", "label", "share"):
        label = arrays["map_label"]
        feature_map = FeatureMap(arrays["map_point"], label, arrays["map_share"])
        colours = class_colours(len(content.classes))
        legend = [*zip(colours, content.classes, strict=True)]
        # Without classes, all images have the label 0.
        svg = plot_map(feature_map, colours or [GREY])
        alt = f"{len(label):,} images as points on the first two principal components."
        split = "test" if content.result is not None else "validation or training"
        caption = (
            f"Features of {counted(len(label), f'{split} image')} on their first two principal "
            "components."
        )
        if legend:
            caption += " Classes that overlap here can still be apart in other directions."
        if len(legend) > LEGEND:
            legend = []
            caption += " The colours follow the order of the classes, from red to magenta."
        blocks.append(Drawing("map", svg, alt, caption, legend=legend))
    return Section("features", "What the encoder has learnt", blocks) if blocks else None


def neighbours_section(content: Content) -> Section | None:
    """Section with the nearest training images of some test images."""
    arrays = content.arrays
    if not content.has("neighbour", "image", "label", "near_image", "near_label", "searched"):
        return None
    classes = content.classes
    pictures = []
    for number, image in enumerate(arrays["neighbour_image"]):
        true = classes[int(arrays["neighbour_label"][number])]
        near = [classes[int(label)] for label in arrays["neighbour_near_label"][number]]
        same = sum(name == true for name in near)
        alt = f"Test image of class {true}; its nearest training images: {', '.join(near)}"
        lines = (true, f"{same} of {len(near)} of this class")
        images = [image, *arrays["neighbour_near_image"][number]]
        pictures.append(Picture(images, alt, lines, wrong=2 * same < len(near)))
    searched = counted(int(arrays["neighbour_searched"]), "training image")
    caption = f"A test image (left) and its nearest of {searched}, by the cosine of their features"
    return Section("neighbours", "Nearest neighbours", [Gallery(caption, pictures)])


def mistakes_section(content: Content) -> Section | None:
    """Section with the most confident mistakes and the least certain images."""
    blocks: list[Block] = []
    if content.has("mistake", *COLUMNS):
        pictures = _predictions(content, "mistake")
        if pictures:
            blocks.append(Gallery("The most confident mistakes on the test split", pictures))
        else:
            blocks.append(Text("No test image is classified wrongly."))
    if content.has("uncertain", *COLUMNS):
        pictures = _predictions(content, "uncertain")
        blocks.append(Gallery("The test images with the lowest confidence", pictures))
    return Section("mistakes", "Mistakes and doubts", blocks) if blocks else None


def _predictions(content: Content, name: str) -> list[Picture]:
    """Return pictures of images with their true class, predicted class and confidence."""
    arrays = content.arrays
    paths = arrays.get(f"{name}_path", [""] * len(arrays[f"{name}_label"]))
    values = zip(*(arrays[f"{name}_{column}"] for column in COLUMNS), paths, strict=True)
    pictures = []
    for image, label, predicted, confidence, path in values:
        true = content.classes[label]
        guess = content.classes[predicted]
        percent = confidence_words(confidence)
        alt = f"Test image of class {true}, predicted {guess} with {percent}"
        lines = [f"true {true}", f"predicted {guess}", percent]
        if path:
            lines.append(str(path))
        pictures.append(Picture([image], alt, lines, wrong=label != predicted))
    return pictures


def confidence_words(confidence: float) -> str:
    """Return a confidence, rounded down: 99.96 % must not read as certain."""
    return f"{np.floor(1000 * float(confidence)) / 10:.1f} %"


def epochs_section(content: Content) -> Section | None:
    """Section with the predictions for the same validation images after each epoch."""
    arrays = content.arrays
    if not content.has("progress", "image", "label", "epoch", "predicted", "probability"):
        return None
    names = content.classes
    labels = [names[int(label)] for label in arrays["progress_label"]]
    predicted = arrays["progress_predicted"]
    probability = arrays["progress_probability"]
    pictures = []
    for number, image in enumerate(arrays["progress_image"]):
        true = labels[number]
        guess = names[int(predicted[-1, number])]
        percent = confidence_words(probability[-1, number])
        alt = f"Validation image of class {true}, at the end predicted {guess} with {percent}"
        lines = (f"{number + 1}. true {true}", f"predicted {guess}", percent)
        pictures.append(Picture([image], alt, lines, guess != true))
    epochs = arrays["progress_epoch"]
    # The first and the last epoch, and some between them.
    shown = np.unique(np.linspace(0, len(epochs) - 1, EPOCHS).round().astype(int))
    rows = []
    for row in shown:
        guesses = zip(predicted[row], probability[row], strict=True)
        texts = (f"{names[int(guess)]} ({confidence_words(value)})" for guess, value in guesses)
        rows.append((f"{epochs[row]}", *texts))
    columns = ("epoch", *(f"{number}. {name}" for number, name in enumerate(labels, 1)))
    blocks = [
        Gallery("The same validation images after every epoch; here after the last one", pictures),
        Table("Prediction and probability after each epoch", columns, rows),
    ]
    return Section("epochs", "How predictions changed in stage 2", blocks)
