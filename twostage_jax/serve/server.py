"""`twostage serve`: from the command to the running page."""

import os
import shlex
import socket
import sys
import threading
import webbrowser

import uvicorn
from starlette.applications import Starlette

from twostage_jax.config.serving import PORT, Serve
from twostage_jax.data.split import Split
from twostage_jax.errors import UserError
from twostage_jax.runs.model import Model, from_run, open_model
from twostage_jax.runs.open import open_run
from twostage_jax.runs.opened import Run
from twostage_jax.runs.sources import load_own
from twostage_jax.serve.app import make_app
from twostage_jax.serve.assessor import Assessor
from twostage_jax.serve.neighbours import NO_IMAGES, Neighbours
from twostage_jax.serve.sources import load_labelling
from twostage_jax.show.terminal import Terminal
from twostage_jax.signals import resumable

# Requests at a time; more are refused. A browser has six connections to one address.
REQUESTS = 32
BACKLOG = 64


def serve(command: Serve, terminal: Terminal) -> None:
    """Open the model, start the page, and answer until a signal ends the program.

    Raises:
        UserError: a model, images or labels that cannot be read, or a port that is in use.
    """
    with terminal.status("opening the model"):
        run, model = open_either(command)
    if model is None and not command.label:
        raise UserError(
            f"{command.model} has no head, so it cannot classify images: give a run with a head, "
            "or --label SPEC to label images"
        )
    listener = listen(command)
    port = listener.getsockname()[1]
    assessor = None
    if model is not None:
        assessor = make_assessor(run, model, command, terminal)
    labelling = None
    if command.label:
        labelling = load_labelling(run, model, command, terminal)
    app = make_app(command.model.resolve().name, port, assessor, labelling)
    name = f"[{command.host}]" if ":" in command.host else command.host
    address = f"http://{name}:{port}/{'label' if labelling else ''}"
    terminal.line(f"the page is at {address}", bold=True)
    terminal.line("only this machine can open it; end it with Ctrl-C", hang=2)
    if not command.no_browser:
        open_browser(address)
    with resumable(shlex.join(["twostage", *sys.argv[1:]])):
        run_server(app, listener)


def open_either(command: Serve) -> tuple[Run | None, Model | None]:
    """Open a run, which may have no head, or a model file."""
    if not command.model.is_dir():
        return None, open_model(command.model, command.trust_code)
    run = open_run(command.model, command.trust_code)
    return run, None if run.finished is None else from_run(run)


def make_assessor(run: Run | None, model: Model, command: Serve, terminal: Terminal) -> Assessor:
    """Compile the model, and begin to encode the training images in the background."""
    train: Split | None = None
    reason = NO_IMAGES
    if run is not None:
        try:
            with terminal.reading("reading the training images") as progress:
                folder = command.data_dir or run.config.data_dir
                train = load_own(run, run.config.data, folder, command.cache_dir, progress).train
        except UserError as error:
            reason = f"The nearest training images are not shown: {error}"
            terminal.notice(f"the page shows no training images: {error}")
    assessor = Assessor(
        model,
        Neighbours(model.passes.features, model.quick.features, train, reason),
        threading.Lock(),
    )
    with terminal.status("compiling the model"):
        assessor.warm_up()
    assessor.neighbours.prepare()
    return assessor


def listen(command: Serve) -> socket.socket:
    """Return a listening socket on the loopback address.

    Raises:
        UserError: if the port is in use or not allowed.
    """
    family = socket.AF_INET6 if command.host == "::1" else socket.AF_INET
    # Without a port, the usual one, or any other one that is free.
    ports = (PORT, 0) if command.port is None else (command.port,)
    reason = ""
    for port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((command.host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
        else:
            return listener
    raise UserError(
        f"cannot use the port {ports[-1]} of {command.host}: {reason}; give another --port"
    )


def make_server(app: Starlette) -> uvicorn.Server:
    """Make the server of the page."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="off",
        limit_concurrency=REQUESTS,
        timeout_keep_alive=30,
    )
    return uvicorn.Server(config)


def run_server(app: Starlette, listener: socket.socket) -> None:
    """Answer requests until the process ends."""
    server = make_server(app)
    # In the main thread, the server would replace our handlers of signals.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    thread.join()


def open_browser(address: str) -> None:
    """Open the page in a browser if there is a screen; one in the terminal would hide our lines."""
    if sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        webbrowser.open(address)
