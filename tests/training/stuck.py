"""`python stuck.py POINT CALL WORDS...`: the command `etude WORDS...`, in which call number CALL of
a function never returns: it computes in C, where Python runs no handler.

POINT is `module:name` or `module:Class.name`. `stuck` on standard output says that it has begun.
"""

from __future__ import annotations

import hashlib
import signal
import sys
import threading
from importlib import import_module
from typing import Any


def compute(*_: Any, **__: Any) -> None:
    """Computes for longer than any test waits."""
    threading.Timer(0.5, print, ["stuck"], {"flush": True}).start()  # when it is in C
    while True:
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def plant(point: str, call: int) -> None:
    module, _, path = point.partition(":")
    owner: Any = import_module(module)
    *classes, name = path.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original, calls = getattr(owner, name), 0

    def planted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            compute()
        return original(*arguments, **named)

    setattr(owner, name, planted)


if __name__ == "__main__":
    from etude.cli import main
    from etude.stopping import watch_signals

    # `nohup` and shells pass on ignored signals, which the command leaves ignored.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    watch_signals()  # as `main` does first
    plant(sys.argv[1], int(sys.argv[2]))
    main(sys.argv[3:])
