"""What a finished run leaves to look at: sample texts and the loss curve."""

from __future__ import annotations

import logging

from omegaconf import DictConfig

from etude.analysis.plots import loss_curve
from etude.config.environment import mask_of
from etude.models.language_model import LanguageModel
from etude.models.textual import Textual
from etude.records.files import write_text
from etude.records.record import Record

log = logging.getLogger("etude")


def finish(record: Record, model: Textual, options: DictConfig) -> None:
    """Writes `samples/step-*.txt` and `figures/loss.png`, and shows the first sample.

    Args:
        record: the run's, still held.
        model: what was trained.
        options: the config's node `run`.
    """
    title = " · ".join(part for part in (record.info["name"], record.label) if part)
    loss_curve(record.rows(), record.path / "figures" / "loss.png", title)
    if options.samples and isinstance(model, LanguageModel):
        texts = samples(model, options, seed=record.info["seed"])
        mask = mask_of(options)  # the prompt may come from the environment
        path = record.path / "samples" / f"step-{record.info['step']:08d}.txt"
        path.parent.mkdir(exist_ok=True)
        write_text(path, mask.text(("\n" + "-" * 72 + "\n").join(texts) + "\n"))
        log.info("sample:\n%s\n", texts[0].strip())


def samples(model: LanguageModel, options: DictConfig, *, seed: int) -> list[str]:
    """`run.samples` texts, the same for the same weights and seed."""
    texts = model.generate(
        [options.sample_prompt],
        samples=options.samples,
        max_new_tokens=options.sample_tokens,
        temperature=0.8,
        seed=seed,
    )
    return [texts] if isinstance(texts, str) else texts
