"""A callback with which a run ends as asked: `extensions=[planted]` finds it."""

from __future__ import annotations

import os
import signal
import time

import pytorch_lightning as pl
import torch


class Planted(pl.Callback):
    """Does what `how` says after the third step; `$PLANTED_SECONDS` slow every step down.

    Args:
        how: raise, kill, oom, exit, spin or nothing.
    """

    def __init__(self, how: str = "nothing") -> None:
        self.how = how

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        time.sleep(float(os.environ.get("PLANTED_SECONDS", "0")))
        if trainer.global_step != 3:
            return
        if self.how == "raise":
            raise ZeroDivisionError("planted")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "oom":
            torch.empty(2**50)
        if self.how == "exit":
            os._exit(7)
