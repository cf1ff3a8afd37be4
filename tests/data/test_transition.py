"""Transition matrices in files."""

import numpy as np
import pytest

from twostage_jax.data.transition import read_transition
from twostage_jax.errors import UserError

MATRIX = np.array([[0.75, 0.25], [0.0, 1.0]])


def test_a_csv_and_an_array_hold_the_same_matrix(tmp_path):
    (tmp_path / "t.csv").write_text("0.75, 0.25\n0,1\n\n")
    np.save(tmp_path / "t.npy", np.asfortranarray(MATRIX))
    for name in ("t.csv", "t.npy"):
        np.testing.assert_array_equal(read_transition(tmp_path / name), MATRIX)


def test_other_files_are_refused_in_one_line(tmp_path):
    (tmp_path / "words.csv").write_text("a,b\n")
    (tmp_path / "ragged.csv").write_text("1,0\n1\n")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "names.npy", np.array(["a"]))
    np.save(tmp_path / "flat.npy", np.ones(3))
    cut = tmp_path / "cut.npy"
    np.save(cut, MATRIX)
    cut.write_bytes(cut.read_bytes()[:-8])
    for path in (*tmp_path.iterdir(), tmp_path / "missing.csv"):
        with pytest.raises(UserError, match="transition|missing"):
            read_transition(path)
