"""A classifier of digits without training, and a running page."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import twostage_jax as ts
from tests.browser import browser, page  # noqa: F401 (fixtures)
from twostage_jax.config.serving import Serve
from twostage_jax.data.dataset import Dataset
from twostage_jax.runs.model import Model, Passes, Settings
from twostage_jax.serve.app import make_app
from twostage_jax.serve.assessor import Assessor
from twostage_jax.serve.neighbours import Neighbours
from twostage_jax.serve.server import listen, make_server

PORT = 8123


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return ts.load("digits")


@pytest.fixture(scope="session")
def model(digits: Dataset) -> Model:
    """The classes of the five nearest training images, on pixels."""
    bank = digits.train["image"].reshape(len(digits.train["image"]), -1).astype(np.float32)
    label = digits.train["label"]

    def features(images: np.ndarray) -> np.ndarray:
        return images.reshape(1, len(images), -1).astype(np.float32)

    def logits(images: np.ndarray) -> np.ndarray:
        distance = ((features(images)[0][:, None] - bank[None]) ** 2).sum(-1)
        votes = np.eye(10)[label[np.argsort(distance, axis=1)[:, :5]]].sum(1)
        return np.log(votes + 0.1)[None].astype(np.float32)

    def both(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return logits(images), features(images)

    settings = Settings(tuple("0123456789"), (8, 8, 1), set_threshold=0.9)
    passes = Passes(logits, features, both)
    return Model(Path("model.twostage"), settings, passes, passes)


@pytest.fixture
def assessor(model: Model, digits: Dataset) -> Assessor:
    neighbours = Neighbours(model.passes.features, model.quick.features, digits.train)
    neighbours.prepare()
    return Assessor(model, neighbours, threading.Lock())


@pytest.fixture
def client(assessor: Assessor) -> TestClient:
    return make_client(make_app("digits", PORT, assessor, None))


def make_client(app: Starlette) -> TestClient:
    """A client that is the page itself."""
    base = f"http://127.0.0.1:{PORT}"
    return TestClient(app, base_url=base, headers={"origin": base})


@pytest.fixture
def live() -> Iterator[Callable[[Callable[[int], Starlette]], str]]:
    """A function that starts the application for a port, and returns its address."""
    with contextlib.ExitStack() as stack:
        yield lambda make: stack.enter_context(_running(make))


@contextlib.contextmanager
def _running(make: Callable[[int], Starlette]) -> Iterator[str]:
    listener = listen(Serve(model=Path("model")))
    port = listener.getsockname()[1]
    server = make_server(make(port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    listener.close()
