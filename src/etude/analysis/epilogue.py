"""What a finished run leaves to look at: sample texts and the loss curve."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import Any

from omegaconf import DictConfig

from etude.analysis.plots import loss_curve
from etude.config.environment import mask_of
from etude.data.examples.base import ExampleData
from etude.data.objective import IGNORE
from etude.data.synthetic.base import SyntheticData
from etude.models.language_model import LanguageModel
from etude.models.regressor import NumberModel
from etude.models.seq2seq import Seq2Seq
from etude.models.textual import Trained
from etude.records.files import write_text
from etude.records.metrics import rows
from etude.records.opening import SAMPLE, folder_in
from etude.records.record import Record

log = logging.getLogger("etude")


def finish(record: Record, model: Trained, data: Any, options: DictConfig) -> None:
    """Writes `samples/step-*.txt` and `figures/loss.png`, and shows the first sample.

    Args:
        record: the run's, still held.
        model: what was trained.
        data: what it was trained on.
        options: the config's node `run`.
    """
    title = " · ".join(part for part in (record.info["name"], record.label) if part)
    fields = data.fields if isinstance(data, ExampleData) else ()
    per = "text" if "label" in fields else "word" if "tags" in fields else "token"
    numbers = isinstance(model, NumberModel)
    unit = "squared error per number" if numbers else f"nats per {per}"
    loss_curve(rows(record.metrics.path), record.path / "figures" / "loss.png", title, unit)
    if not options.samples or not isinstance(model, LanguageModel | Seq2Seq):
        return
    if isinstance(data, SyntheticData) and not data.answers_last:
        return
    if isinstance(data, ExampleData | SyntheticData) or isinstance(model, Seq2Seq):
        texts = answers(model, data, options)
    else:
        texts = samples(model, options, seed=record.info["seed"])
    mask = mask_of(options)  # the prompt may come from the environment
    path = folder_in(record.path, "samples") / f"step-{record.info['step']:08d}.txt"
    write_text(path, mask.text(("\n" + "-" * 72 + "\n").join(texts) + "\n"), SAMPLE)
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


def answers(model: LanguageModel | Seq2Seq, data: Any, options: DictConfig) -> list[str]:
    """The first `run.samples` validation examples: what the model reads, what it should write, and
    what it writes, the likeliest token after the other.
    """
    special = set(data.tokenizer_.special_tokens().values())
    longest = min(options.sample_tokens, data.sequence_length)
    found = []
    for read, target in islice(_asked(data), options.samples):
        end = target[-1]
        ends = [end] if end in special else []
        enough = min(longest, len(target)) if isinstance(data, SyntheticData) else longest
        written = model.answer(read, max_new_tokens=enough, stop_tokens=ends)
        kept = [ids[:-1] if ids[-1:] == [end] and ends else ids for ids in (read, target)]
        texts = [*(model.tokenizer.decode(ids) for ids in kept), written]
        names = ("source", "target", "model")
        found.append("\n".join(f"{n}: {t.strip()}" for n, t in zip(names, texts, strict=True)))
    return found


def _asked(data: Any) -> Iterator[tuple[list[int], list[int]]]:
    """Of each validation example the ids that are read before the targets, and these."""
    for arrays in _examples(data):
        labels = arrays["labels"].tolist()
        counted = [label for label in labels if label != IGNORE]
        if not counted:  # an answer of which nothing is left
            continue
        if "source" in arrays:
            yield arrays["source"].tolist(), counted
        else:  # a decoder's labels are the next tokens
            begins = next(place for place, label in enumerate(labels) if label != IGNORE)
            yield arrays["tokens"][: begins + 1].tolist(), counted


def _examples(data: Any) -> Iterator[dict[str, Any]]:
    if isinstance(data, ExampleData):
        table = data.table("val")
        yield from (table[index] for index in range(len(table)))
        return
    for batch in data.val_dataloader():
        first = "source" if "source" in batch else "tokens"
        pairs = zip(batch[first], batch["labels"], strict=True)
        yield from ({first: source, "labels": labels} for source, labels in pairs)
