"""Only the end of a run, an evaluation and a study read the test split, and each counts it."""

import ast
from pathlib import Path

import pytest

import twostage_jax as ts
from tests import tiny
from twostage_jax.data.dataset import Lockbox


def test_only_these_functions_unlock_the_test_split():
    places = []
    for path in Path(ts.__file__).parent.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                nodes = ast.walk(function)
                attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
                places += [(path.stem, function.name)] * attributes.count("unlock")
    # `sources` passes the call of a study on.
    assert sorted(places) == [
        ("evaluate", "_part"),
        ("finish", "finish_run"),
        ("labels", "study_label_counts"),
        ("noise", "study_noise"),
        ("sources", "unlock"),
    ]


def test_a_read_of_the_test_split_is_on_disk_before_it_happens(done, copy, data):
    class Stopped(Exception):
        pass

    class Refusing(Lockbox):
        def unlock(self):
            raise Stopped

    def load(*arguments, **options):
        dataset = ts.load(*arguments, **options)
        training, lockbox = dataset.lock()
        # A data set whose test split cannot be read.
        object.__setattr__(dataset, "lock", lambda: (training, Refusing(dataset.test)))
        return dataset

    seams = tiny.stopped_after(10**6)._replace(load=load)
    with pytest.raises(Stopped):
        tiny.resume(copy, seams=seams)
    assert tiny.stored(copy, "manifest.json")["test_reads"] == 1
    assert not (copy / "result.json").exists()
    more = {"head": {"epochs": 3}}
    with pytest.raises(ts.UserError, match="because the test split has been read"):
        tiny.resume(copy, config=more, allow_changed=True)
    # The measurement that was stopped is finished, and is no second read.
    tiny.resume(copy)
    tiny.same(copy, done)
