"""Runs commands of the package one after another, as `processes.Resident` asks for them.

It saves the three seconds of imports that a process of its own costs each command.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from twostage_jax.cli import main


def call(argv, out, err):
    """The exit status of one command; what it prints, C++ included, goes to two files."""
    kept = os.dup(1), os.dup(2)
    for number, path in ((1, out), (2, err)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(opened, number)
        os.close(opened)
    try:
        return main(argv)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for number, stream, old in zip((1, 2), (sys.stdout, sys.stderr), kept, strict=True):
            stream.flush()
            os.dup2(old, number)
            os.close(old)


def serve():
    """Answer each line of standard input with the status of the command in it."""
    # Nothing that a command prints may get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        Path(request["out"]).unlink(missing_ok=True)
        answers.write(f"{json.dumps(call(request['argv'], request['out'], request['err']))}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
