"""Where Étude's messages go unless a program says otherwise: plain lines on standard output.

Notices about the request go to standard error, as standard output may be YAML or JSON.
"""

from __future__ import annotations

import logging
import os
import sys

from etude.secrets import MaskingFormatter

NOTICES = "etude.notices"
"""The logger of notices about the request."""


class _Stdout(logging.Handler):
    """Writes to whatever `sys.stdout` is at that moment, as a notebook or a test may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == NOTICES:
            print(self.format(record), file=sys.stderr, flush=True)
            return
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
        logging.getLogger(NOTICES).setLevel(logging.WARNING)  # also where others are silenced
