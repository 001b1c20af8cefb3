"""A callback that ends a run in a given way, used with `extensions=[planted]`."""

from __future__ import annotations

import os
import signal
import time

import pytorch_lightning as pl
import torch


class Planted(pl.Callback):
    """Ends the run after the third step; `$PLANTED_SECONDS` is added to each step.

    Args:
        how: `raise`, `kill`, `oom`, `exit`; other values do nothing.
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
