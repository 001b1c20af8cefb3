"""Where Étude's messages go when nobody said otherwise: to standard output, as plain lines."""

from __future__ import annotations

import logging
import os
import sys

from etude.secrets import MaskingFormatter


class _Stdout(logging.Handler):
    """Writes to whatever `sys.stdout` is at that moment, as a notebook or a test may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stdout, flush=True)
        except BrokenPipeError:  # whoever read along has left; training goes on
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def show_messages() -> None:
    """Shows messages from now on, once, unless a program has set up handlers of its own."""
    logger = logging.getLogger("etude")
    if not logger.handlers and not logging.getLogger().handlers:
        handler = _Stdout(logging.INFO)
        handler.setFormatter(MaskingFormatter("%(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
