"""The benchmark of members: its rows and ratios, and PyTorch's side of it."""

import copy
import json

import numpy as np
import pytest

from twostage_jax.bench import harness
from twostage_jax.bench.members import EPOCHS, MEMBERS, make_rows, note, ratios
from twostage_jax.cli import main


def measured(sort, members, seconds, peak=5e8):
    found = {
        "sort": sort,
        "members": members,
        "cold": 10.0,
        "peak_bytes": peak,
        "training": seconds,
    }
    return found | {"pretrain": [seconds, seconds], "head": [seconds, seconds]}


def report(**rows):
    named = {name.replace("_", "-"): values for name, values in rows.items()}
    return {"rows": [{"name": n, "title": n, "repetitions": r} for n, r in named.items()]}


def test_every_row_has_a_name_of_its_own():
    rows = make_rows(EPOCHS)
    assert len({row.name for row in rows}) == len({row.title for row in rows}) == len(rows)
    names = {row.name for row in rows}
    assert {f"full-{n}" for n in (1, 4, 16, 64)} <= names
    assert {f"heads-{n}" for n in (1, 16, 64, 256, 1024)} <= names


def test_ratios_by_hand():
    rows = {
        "full_1": [measured("full", 1, 2.0)],
        "full_4": [measured("full", 4, 6.0)],
        "heads_1": [measured("heads", 1, 0.1)],
        "heads_64": [measured("heads", 64, 1.6)],
        "torch_func_full_4": [measured("full", 4, 24.0)],
    }
    found = dict(ratios(report(**rows)))
    assert found["training per member, 4 pipelines / 1"] == "0.75 x"
    assert found["stage-2 epoch in all, 64 heads on one encoder / 1"] == "16.00 x"
    assert found["training per member, 4 pipelines, torch.func / ours"] == "4.00 x"


def test_a_further_member_costs_what_it_adds_to_the_peak():
    rows = report(full_1=[measured("full", 1, 1.0, 5e8)], full_4=[])
    (row,) = [row for row in make_rows(EPOCHS) if row.name == "full-4"]
    assert note(rows, row, measured("full", 4, 1.0, 5.6e8)) == {"member_bytes": 2e7}


def test_a_benchmark_of_heads_from_end_to_end(tmp_path, monkeypatch):
    # The rate itself is measured in the benchmark of one run; here it is only written.
    monkeypatch.setattr(harness, "matrix_rate", lambda setting: {"rate": 1e9, "device": "cpu"})
    monkeypatch.setitem(MEMBERS, "order", (4,))
    out = tmp_path / "bench"
    flags = ["--members", "--data", "digits", "--rows", "heads-1", "order-4"]
    assert main(["bench", *flags, "--epochs", "2", "--repeats", "1", "--out", str(out)]) == 0
    written = json.loads((out / "bench.json").read_text())
    assert [row["repetitions"][0]["members"] for row in written["rows"]] == [1, 4]
    assert "4 heads on one encoder in one order / 1" in (out / "bench.md").read_text()


def test_members_and_parity_are_two_benchmarks(capsys):
    assert main(["bench", "--members", "--parity"]) == 2
    assert "are two benchmarks: ask for one" in capsys.readouterr().err


def test_pytorch_s_members_take_the_steps_they_take_alone():
    torch = pytest.importorskip("torch")
    from twostage_jax.bench import torch_members
    from twostage_jax.bench.pytorch import LEARNING_RATE, TwoStageNetwork

    torch.manual_seed(0)
    alone = [TwoStageNetwork(16, 3) for _ in range(2)]
    nets = [torch.nn.Sequential(net.stage1, net.decoder) for net in copy.deepcopy(alone)]
    whole, images = torch_members.stacked(nets), torch.rand(2, 8, 16)
    step = torch_members.make_step(torch_members.reconstruction(whole), whole.params)
    losses = [step(images) for _ in range(3)]
    for member, net in enumerate(alone):
        optimiser = torch.optim.Adam(net.stage1_parameters("autoencoder"), lr=LEARNING_RATE)
        for number in range(3):
            optimiser.zero_grad()
            loss = net.reconstruct(images[member])
            loss.backward()
            optimiser.step()
            assert losses[number][member].item() == pytest.approx(loss.item(), abs=1e-6)
        weight = whole.params["0.0.weight"][member]
        torch.testing.assert_close(weight, net.stage1[0].weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["func", "serial"])
@pytest.mark.parametrize("share", [False, True])
def test_pytorch_s_programs_learn(mode, share, tmp_path):
    pytest.importorskip("torch")
    from twostage_jax.bench import torch_members
    from twostage_jax.data.sources import load

    data = load("digits", 0)
    path = tmp_path / "data.npz"
    parts = {"train": data.train, "test": data.test}
    arrays = {f"x_{name}": part["image"] for name, part in parts.items()}
    arrays |= {f"y_{name}": part["label"] for name, part in parts.items()}
    np.savez(path, **arrays)
    job = {"mode": mode, "share": share, "members": 2, "device": "cpu", "classes": 10}
    job |= {"data": str(path), "seed": 0, "threads": None, "epochs": (2, 8)}
    report = torch_members.run(job)
    assert len(report["accuracies"]) == 2 and min(report["accuracies"]) > 0.6
    assert len(report["pretrain"]) == 2 and len(report["head"]) == 8
