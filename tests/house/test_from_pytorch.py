"""`docs/from-pytorch.md`: its two programs run, say the same, and exchange their weights."""

import contextlib
import io
import re

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.house.source import ROOT

pytestmark = pytest.mark.slow  # PyTorch

TEXT = (ROOT / "docs" / "from-pytorch.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def page():
    """Names that the code of the page defines, and the lines that it prints."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    # With more threads, small batches mostly wait for other processes.
    torch.set_num_threads(1)
    names: dict = {}
    output = io.StringIO()
    with contextlib.redirect_stdout(output), jax.numpy_rank_promotion("allow"):
        for block in BLOCKS:
            exec(compile(block, "from-pytorch.md", "exec"), names)
    torch.set_num_threads(threads)
    return names, output.getvalue().splitlines()


def test_both_programs_print_the_lines_of_the_blog(page):
    _, lines = page
    assert [line for line in lines if line.startswith("Training")] == [
        f"Training Stage {title}"
        for title in ("1 (Feature Extraction)", "2 (Classification)")
        for _ in range(2)
    ]
    assert sum(bool(re.fullmatch(r"Epoch \[\d/5\], Loss: \d\.\d{4}", line)) for line in lines) == 20


def test_both_programs_learn_the_same(page):
    names, lines = page
    assert names["torch_accuracy"] > 0.85 and names["scores"]["accuracy"] > 0.85
    losses = [float(line.split()[-1]) for line in lines if line.startswith("Epoch")]
    # The last epoch of each stage, in PyTorch and here; only the random numbers differ.
    for theirs, ours in ((losses[4], losses[9]), (losses[14], losses[19])):
        assert ours == pytest.approx(theirs, rel=0.2)


def test_the_weights_of_both_give_the_same_logits(page):
    names, _ = page
    torch = names["torch"]
    image = names["dataset"].test["image"]
    x = torch.tensor((image.reshape(len(image), -1) / 255 - 0.5) / 0.5, dtype=torch.float32)
    with torch.no_grad():
        theirs = names["model"](x).numpy()
        ours = names["copy"](x).numpy()
    assert np.allclose(names["logits"], theirs, atol=1e-5)
    logits = ts.make_logits(names["encoder"], names["head"])
    assert np.allclose(logits(names["params"], ts.as_image(image)), ours, atol=1e-5)
