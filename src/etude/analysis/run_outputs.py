"""Output of a finished run: sample texts and the loss curve."""

from __future__ import annotations

import logging
from typing import Any

from omegaconf import DictConfig

from etude.analysis.plots import loss_curve
from etude.config.environment import make_mask
from etude.records.files import write_text
from etude.records.metrics_file import iter_rows
from etude.records.opening import SAMPLE, make_subfolder
from etude.records.record import Record
from etude.tasks.base import Task

log = logging.getLogger("etude")


def write_outputs(record: Record, task: Task, data: Any, options: DictConfig) -> None:
    """Writes the sample texts and the loss curve of a finished run, and logs the first sample.

    The files are `samples/step-<last step, 8 digits>.txt` and `figures/loss.png` in the run folder.
    Sample texts are not written if `options.samples` is 0 or the task has no sample texts.

    Args:
        record: the run; this process has the lock of its folder.
        task: task with the trained model.
        data: data module that the model was trained on.
        options: the config's node `run`, which sets the number of samples and their prompt.
    """
    title = " · ".join(part for part in (record.info["name"], record.label) if part)
    loss_curve(
        iter_rows(record.metrics.path), record.path / "figures" / "loss.png", title, task.loss_unit
    )
    texts = task.samples(data, options) if options.samples else []
    if not texts:
        return
    mask = make_mask(options)  # the prompt may come from the environment
    path = make_subfolder(record.path, "samples") / f"step-{record.info['step']:08d}.txt"
    write_text(path, mask.text(("\n" + "-" * 72 + "\n").join(texts) + "\n"), SAMPLE)
    log.info("sample:\n%s\n", texts[0].strip())
