"""Spellings of labels, and labels that may mean something else than a class."""

import pytest

from tests.data.photos import labels, load, refused, rows, write


@pytest.mark.parametrize(("often", "rarely"), [("7", "07"), ("7", "7.0"), ("-0.5", "-0.50")])
def test_a_number_in_two_spellings_is_asked_about(images, often, rarely):
    names = [often, rarely, *[often] * 3, *["8"] * 7]
    lines = [f"{p},{name}" for (p, _), name in zip(rows(images), names, strict=True)]
    spec = write(images / "t.csv", ["path,label", *lines])
    assert "--merge-labels" in refused(spec, f"'{often}' \\(4\\) and '{rarely}' \\(1\\)")
    assert set(load(spec, merge_labels=True).classes) == {often, "8"}


def test_numbers_with_the_same_zeros_keep_them(images):
    lines = [f"{p},00{'1' if k == 'ant' else '10'}" for p, k in rows(images)]
    assert load(write(images / "t.csv", ["path,label", *lines])).classes == ("001", "0010")


def test_labels_that_may_be_none_or_several_are_said(images):
    names = ["NA", "NA", "ant|bee", *["ant"] * 4, *["bee"] * 5]
    lines = [f"{p},{name}" for (p, _), name in zip(rows(images), names, strict=True)]
    spec = write(images / "t.csv", ["path,label", *lines])
    notes = "\n".join(load(spec).notes)
    assert "label 'NA' (2) is read as a class: --unlabeled-label 'NA'" in notes
    assert "not as several classes: 1 ('ant|bee')" in notes
    dataset = load(spec, unlabeled_label=("NA", "ant|bee"))
    assert set(labels(dataset).values()) == {"ant", "bee"}
    assert "is read as a class" not in "\n".join(dataset.notes)
