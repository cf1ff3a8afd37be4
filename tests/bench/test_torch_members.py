"""PyTorch's side of the benchmark of members."""

import copy

import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # threads that wait for a busy core make a step 20 times slower

from twostage_jax.bench.torch import members, tasks  # noqa: E402
from twostage_jax.bench.torch.network import TwoStageNetwork  # noqa: E402
from twostage_jax.bench.torch.pytorch import LEARNING_RATE  # noqa: E402


def test_stacked_members_take_the_same_steps_as_single_networks():
    torch.manual_seed(0)
    single = [TwoStageNetwork(16, 3) for _ in range(2)]
    nets = [torch.nn.Sequential(net.stage1, net.decoder) for net in copy.deepcopy(single)]
    stack = members.stacked(nets)
    images = torch.rand(2, 8, 16)
    step = members.make_step(members.reconstruction(stack), stack.params)
    losses = [step(images) for _ in range(3)]
    for member, net in enumerate(single):
        optimiser = torch.optim.Adam(net.stage1_parameters("autoencoder"), lr=LEARNING_RATE)
        for number in range(3):
            optimiser.zero_grad()
            loss = net.reconstruct(images[member])
            loss.backward()
            optimiser.step()
            assert losses[number][member].item() == pytest.approx(loss.item(), abs=1e-6)
        weight = stack.params["0.0.weight"][member]
        torch.testing.assert_close(weight, net.stage1[0].weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["func", "serial"])
@pytest.mark.parametrize("share", [False, True])
def test_both_programs_learn(mode, share, arrays):
    task = {"mode": mode, "share": share, "members": 2, "device": "cpu", "classes": 3}
    task |= {"data": arrays, "seed": 0, "threads": None, "epochs": (2, 40)}
    report = members.run(task)
    assert len(report["accuracies"]) == 2 and min(report["accuracies"]) > 0.7
    assert len(report["pretrain"]) == 2 and len(report["head"]) == 40


def test_tuning_returns_the_fastest_number_of_threads(arrays):
    task = {"mode": "func", "share": True, "members": 2, "device": "cpu", "classes": 3}
    task |= {"data": arrays, "seed": 0, "threads": None, "epochs": (2, 2)}
    tuned = tasks.tune(task, [1], members.trial)
    assert tuned["threads"] == 1 and list(tuned["seconds"]) == [1]
