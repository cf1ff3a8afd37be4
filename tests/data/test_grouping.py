"""Groups: every split that is made keeps a group on one side, and divided groups are named."""

import numpy as np
import pytest

import twostage_jax as ts
from tests.data.photos import folder, load, picture, refused, sizes
from twostage_jax.data.split import group_indices


def people(count=60, groups=15, classes=3, seed=0):
    random = np.random.RandomState(seed)
    group = np.sort(random.randint(0, groups, count))
    return random.randint(0, classes, count).astype(np.int32), group.astype(np.int32)


@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_are_drawn_and_classes_keep_their_shares(seed):
    label, group = people(1000, 120, 4, seed)
    chosen = group_indices(label, group, 200)
    rest = np.delete(np.arange(1000), chosen)
    assert set(group[chosen]).isdisjoint(group[rest])
    assert 190 <= len(chosen) <= 210
    shares = np.bincount(label[chosen], minlength=4) / np.bincount(label, minlength=4)
    assert np.abs(shares - 0.2).max() < 0.04
    np.testing.assert_array_equal(chosen, group_indices(label, group + 7, 200))


def test_groups_of_one_class_each_are_stratified():
    group = np.repeat(np.arange(40), 5).astype(np.int32)
    label = (group % 4).astype(np.int32)
    chosen = group_indices(label, group, 40)
    assert np.bincount(label[chosen]).tolist() == [10, 10, 10, 10]


def test_every_class_keeps_a_group():
    # The only group of class 2 is large, and a draw with it would be the nearest to its size.
    label = np.array([0] * 10 + [1] * 10 + [2] * 5, np.int32)
    group = np.array([0] * 5 + [1] * 5 + [2] * 5 + [3] * 5 + [4] * 5, np.int32)
    chosen = group_indices(label, group, 5)
    assert set(label[np.delete(np.arange(25), chosen)]) == {0, 1, 2} and len(chosen) == 5


def test_groups_that_cannot_be_divided_are_refused():
    with pytest.raises(ts.UserError, match="cannot be split by their 2 groups"):
        group_indices(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]), 1)


def test_one_group_too_few_for_validation_leaves_it_out(tmp_path):
    for person in "AB":
        folder(tmp_path, {f"cat/{person}": 8, f"dog/{person}": 8})
    dataset = load(f"folder:{tmp_path}", group_by="/([AB])/")
    assert sizes(dataset) == {"train": 16, "validation": 0, "test": 16}
    assert any("no validation split" in note for note in dataset.notes)
    refused(f"folder:{tmp_path}", "cannot be split", group_by="/([AB])/", validation=2)


@pytest.fixture
def patients(tmp_path):
    """Two classes; patient p00 to p11 has two images of each, and two without a label."""
    value = 0
    for name in ("sick", "well", "unlabeled"):
        for number in range(12):
            for index in range(2):
                picture(tmp_path / name / f"p{number:02d}_{index}.png", value)
                value += 1
    return tmp_path


def test_every_split_keeps_a_patient_on_one_side_the_pool_too(patients):
    dataset = load(f"folder:{patients}", group_by=r"p\d+", validation=8)
    names = {
        split: {dataset.groups[k] for k in part["group"]} for split, part in dataset.splits.items()
    }
    assert names["train"] and names["validation"] and names["test"]
    held_out = names["validation"] | names["test"]
    assert held_out.isdisjoint(names["train"] | names["unlabelled"])
    assert not names["validation"] & names["test"]
    for split, part in dataset.splits.items():
        expected = [path.split("/")[1][:3] for path in part["path"].tolist()]
        assert [dataset.groups[k] for k in part["group"]] == expected, split
    assert any("unlabelled images of groups in validation and test" in x for x in dataset.notes)
    again = load(f"folder:{patients}", group_by=r"p\d+", validation=dataset.validation_size)
    assert again.parts == dataset.parts


def test_more_images_of_a_held_out_patient_are_left_out(patients, tmp_path_factory):
    more = tmp_path_factory.mktemp("more")
    for number in range(14):
        picture(more / f"p{number:02d}_9.png", 500 + number)
    dataset = load(f"folder:{patients}", group_by=r"p\d+", unlabeled=f"folder:{more}")
    held_out = set(dataset.test["group"]) | set(dataset.validation["group"])
    assert held_out.isdisjoint(dataset.unlabelled["group"].tolist())
    assert {"p12", "p13"} <= {dataset.groups[k] for k in dataset.unlabelled["group"]}


def test_a_single_class_with_groups_and_a_pool_without_is_unlabelled(tmp_path):
    folder(tmp_path, {"cat": 3, "more": 2})
    (tmp_path / "t.csv").write_text("".join(f"cat/00{i}.png,a,p{i}\n" for i in range(3)))
    dataset = load(
        f"csv:{tmp_path / 't.csv'}",
        label_column="2",
        group_column="3",
        unlabeled=f"folder:{tmp_path / 'more'}",
        needs_labels=False,
    )
    names = [dataset.groups[k] if k >= 0 else "" for k in dataset.unlabelled["group"]]
    assert sorted(names) == ["", "", "p0", "p1", "p2"]


def test_divided_groups_of_the_source_are_counted(tmp_path):
    for split, people in {"train": "abc", "test": "bcd"}.items():
        for person in people:
            for name in ("x", "y"):
                picture(tmp_path / split / name / f"{person}{len(name)}.png", ord(person))
    dataset = load(f"folder:{tmp_path}", group_by="([a-d])1.png")
    text = " ".join(dataset.notes)
    assert "divide 2 of 4 groups ('b' in train and test, 'c' in train and test)" in text


def test_images_without_a_group_are_groups_of_their_own(patients):
    picture(patients / "sick" / "someone.png", 999)
    dataset = load(f"folder:{patients}", group_by=r"p\d+")
    assert "sick/someone.png" in dataset.groups
    assert any("1 images have no group" in note for note in dataset.notes)
    refused(f"folder:{patients}", "--group-by 'zz' matches no path, for instance", group_by="zz")
