"""Runs commands of the package one after another, as `processes.Resident` requests them.

This saves the three seconds of imports that a new process costs for each command.
"""

import json
import os
import sys
import traceback
from pathlib import Path

from twostage_jax.cli import main


def call(argv, out, err):
    """Run one command with its output, also that of C++ code, in two files; return its status."""
    saved = [os.dup(1), os.dup(2)]
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    try:
        return main(argv)
    except SystemExit as stop:
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for number, stream, old in zip((1, 2), (sys.stdout, sys.stderr), saved, strict=True):
            stream.flush()
            os.dup2(old, number)
            os.close(old)


def serve():
    """Answer each line of standard input, a command, with its status."""
    # The answers keep the original standard output; everything else goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        Path(request["out"]).unlink(missing_ok=True)
        status = call(request["argv"], request["out"], request["err"])
        answers.write(f"{json.dumps(status)}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
