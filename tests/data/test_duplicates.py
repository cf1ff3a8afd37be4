"""Copies across splits: planted in real images, found, and not found where there are none."""

import io
from functools import partial

import numpy as np
from PIL import Image

import twostage_jax as ts
from twostage_jax.data import duplicates
from twostage_jax.data.duplicates import find_duplicates
from twostage_jax.data.similarity import describe, find_matches, usable_views

DIGITS = ts.load("digits", validation=0)


def enlarged(images):
    """Digits in 24×24 pixels, so that a shift by one pixel is a small change."""
    pictures = [Image.fromarray(image[..., 0]).resize((24, 24)) for image in images]
    return np.stack([np.asarray(picture) for picture in pictures])[..., None]


TRAIN = enlarged(DIGITS.train["image"])
TEST = enlarged(DIGITS.test["image"])
VIEWS = usable_views(TRAIN.shape[1:])
PLANTED = 60


def compressed(image):
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "JPEG", quality=50)
    return np.asarray(Image.open(file))[..., None]


def noisy(image):
    noise = np.random.RandomState(int(image.sum()) % 1000).normal(0, 8, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def brighter(image):
    return (0.8 * image + 40).astype(np.uint8)


def shifted(image):
    return np.roll(image, 2, axis=1)


def resampled(image):
    small = Image.fromarray(image[..., 0]).resize((18, 18), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((24, 24), Image.Resampling.BICUBIC))[..., None]


def splits(train, test):
    return {"train": {"image": train}, "test": {"image": test}}


def mirrored(image):
    return image[:, ::-1]


def cropped(image):
    small = Image.fromarray(image[1:23, 2:, 0])
    return np.asarray(small.resize((24, 24), Image.Resampling.BICUBIC))[..., None]


def padded(image):
    small = Image.fromarray(image[..., 0]).resize((22, 22), Image.Resampling.BICUBIC)
    return np.pad(np.asarray(small), 1, mode="edge")[..., None]


CHANGES = [compressed, noisy, brighter, shifted, resampled, mirrored, cropped, padded]


def test_nine_of_ten_changed_copies_are_found_beside_few_other_pairs():
    originals = np.random.RandomState(0).choice(len(TRAIN), PLANTED, replace=False)
    copies = [np.stack([change(image) for image in TRAIN[originals]]) for change in CHANGES]
    (pairs,) = find_duplicates(splits(TRAIN, np.concatenate([TEST, *copies]))).pairs
    # Some digits of the test split look like a digit of the train split to a person, too.
    real = pairs.image < len(TEST)
    assert real.sum() <= 0.2 * PLANTED
    change, number = np.divmod(pairs.image[~real] - len(TEST), PLANTED)
    right = pairs.copy[~real] == originals[number]
    assert right.mean() > 0.98
    shares = np.bincount(change[right], minlength=len(CHANGES)) / PLANTED
    for name, share in zip(CHANGES, shares, strict=True):
        assert share >= 0.9, name
    assert 0 < pairs.distance.max() < 0.1


def test_noise_and_flat_images_are_no_copies():
    noise = np.random.RandomState(0).randint(0, 255, (PLANTED, 24, 24, 1)).astype(np.uint8)
    flat = np.full((PLANTED, 24, 24, 1), 9, np.uint8)
    for images in (noise, flat):
        pairs = find_duplicates(splits(TRAIN, images)).pairs
        assert sum(len(x.image) for x in pairs) <= 0.05 * PLANTED


def test_a_test_split_that_is_the_train_split_has_identical_copies_alone():
    result = find_duplicates(splits(TRAIN, TRAIN))
    (pairs,) = result.pairs
    assert pairs.identical.all() and len(pairs.image) == len(TRAIN)
    assert result.affected("test", len(TRAIN)).all()
    # The first of several copies is named, and each image once.
    (pairs,) = find_duplicates(splits(TRAIN[[0, 1, 1]], TRAIN[[1, 1]]), "exact").pairs
    assert (pairs.copy.tolist(), pairs.image.tolist()) == ([1, 1], [0, 1])


def test_copies_are_counted_for_each_earlier_split_of_validation_and_test():
    images = {
        "train": TRAIN[:40],
        "unlabelled": TRAIN[40:80],
        "validation": TRAIN[80:120],
        "test": TRAIN[120:160],
    }
    images["unlabelled"] = np.concatenate([images["unlabelled"], images["train"][:1]])
    images["validation"] = np.concatenate([images["validation"], images["unlabelled"][:1]])
    images["test"] = np.concatenate([images["test"], TRAIN[[0, 40, 80]]])
    result = find_duplicates({name: {"image": x} for name, x in images.items()}, "exact")
    table = {(x.earlier, x.later): (x.copy.tolist(), x.image.tolist()) for x in result.pairs}
    assert table == {
        # Copies between train and unlabelled images spoil nothing.
        ("unlabelled", "validation"): ([0], [40]),
        ("train", "test"): ([0], [40]),
        ("unlabelled", "test"): ([40, 0], [40, 41]),
        ("validation", "test"): ([40, 0], [41, 42]),
    }
    assert np.flatnonzero(result.affected("test", 43)).tolist() == [40, 41, 42]
    assert np.flatnonzero(result.affected("validation", 41)).tolist() == [40]


def test_a_search_that_is_not_made_says_why(monkeypatch):
    small = np.zeros((40, 4, 4, 1), np.uint8)
    assert "8x8 pixels" in find_duplicates(splits(small, small)).reason
    images = splits(TRAIN[:100], TEST[:10])
    result = find_duplicates(images, "exact")
    assert not result.near and result.reason.endswith("--duplicates exact was given")
    result = find_duplicates(images)
    assert result.near and not result.reason
    # There is time to compare each pair once, and not eight times.
    monkeypatch.setattr(duplicates, "LIMITS", {1: 1000})
    result = find_duplicates(images)
    assert result.near and "mirrored and cropped copies were not searched" in result.reason
    monkeypatch.setattr(duplicates, "LIMITS", {1: 999})
    result = find_duplicates(images)
    assert not result.near and "give --duplicates near" in result.reason
    assert find_duplicates(images, "near").near
    # Nothing is left to search.
    assert find_duplicates(splits(TRAIN[:100], TRAIN[:100])).near


def test_a_match_does_not_depend_on_the_order_of_the_bank():
    order = np.random.RandomState(1).permutation(len(TRAIN))
    queries = np.stack([noisy(image) for image in TRAIN[:PLANTED]])
    first = find_matches(TRAIN.__getitem__, queries, partial(describe, TRAIN), VIEWS)
    other = TRAIN[order]
    second = find_matches(other.__getitem__, queries, partial(describe, other), VIEWS)
    assert len(first.query) == len(second.query) == PLANTED
    np.testing.assert_array_equal(first.bank, order[second.bank])


def test_colour_images_of_any_size_are_compared():
    random = np.random.RandomState(0)
    waves = np.cumsum(random.normal(size=(64, 90, 130, 3)), axis=1) * 9 + 128
    images = np.clip(waves, 0, 255).astype(np.uint8)
    (pairs,) = find_duplicates(splits(images, images[:9] // 2 + 40)).pairs
    assert pairs.copy.tolist() == list(range(9)) and not pairs.identical.any()


def test_the_nearest_copy_of_several_splits_is_named():
    images = {"train": TRAIN[:600], "validation": TRAIN[600:1200], "test": TEST[:60].copy()}
    images["test"][:9] = [noisy(image) for image in TRAIN[620:629]]
    pairs = find_duplicates({name: {"image": x} for name, x in images.items()}).pairs
    (pair,) = [x for x in pairs if (x.earlier, x.later) == ("validation", "test")]
    planted = pair.image < 9
    assert pair.copy[planted].tolist() == list(range(20, 29))
