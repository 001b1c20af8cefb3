"""Finetuning an encoder in Étude and with `transformers.Trainer`.

    python benchmarks/finetuning.py [--quick] [--cpu-time]

A BERT of MiniLM's size (6 layers, D = 384, 12 heads, 30,522 tokens) learns to classify passages of
the State of the Union. Both sides begin with the same weights and read the same examples in the
same steps, padded to the longest of each. Each trains in a process of its own, by its whole loop,
and waits after some steps while the other one takes as many. `--cpu-time` counts the seconds that a
side was given a processor: on a machine that others use too, by one thread, these say more.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rows import Row, at_least, table

BASE = [
    "experiment=party",
    "model=bert_base",
    "model/head=classification",
    "model.layers=6",
    "model.dim=384",
    "model.attention.attention_dropout=0.0",
    "data.first_year=1945",
    "data.words=60",
    "data.sequence_length=128",
    "data.batch.examples=32",
    "data.tokenizer.vocab_size=8192",
    "optimizer.lr=1e-4",
    "schedule=constant",
    "trainer.max_epochs=null",
    "trainer.val_check_interval=null",
    "run.samples=0",
]
STRETCH = 3  # steps of one side before the other's turn
TARGET = 1.0
NOTES = """\
Both sides train with AdamW (fused, the same groups and betas), clip at 1, write a row of metrics
every 10 steps, and neither drops attention weights, for which there is no fused kernel on a CPU.
They are given the same lists of examples, so what is compared is the loop, the collation and the
model, not the choice of batches: both can sort 50 steps' examples by length.
"""


@dataclass(frozen=True)
class Case:
    """What is compared.

    Args:
        what: in words.
        dropout: after the embedding and each branch, and before the classifier.
        stretches: of `STRETCH` steps each, and how many in a quick look.
    """

    what: str
    dropout: float
    stretches: tuple[int, int]


CASES = (
    Case("MiniLM's size, 32 passages of up to 128 tokens, no dropout", 0.0, (14, 2)),
    Case("the same, dropout 0.1 but on attention", 0.1, (14, 2)),
)


class Turns:
    """Trains while it is this side's turn.

    Args:
        pipe: to the parent, which sends a word when a turn begins and is sent its seconds, by the
            clock and of the processors.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.steps = pipe, 0
        self._began = 0.0, 0.0

    def begin(self) -> None:
        """Waits for the first turn."""
        self.pipe.recv()
        self._began = time.perf_counter(), time.process_time()

    def step(self) -> None:
        """A step is done; perhaps the turn is too."""
        self.steps += 1
        if self.steps % STRETCH == 0:
            wall, cpu = self._began
            self.pipe.send((time.perf_counter() - wall, time.process_time() - cpu))
            self.begin()


def overrides(case: Case, steps: int, root: str) -> list[str]:
    """The config: the last step, which validates the whole split, is not among those measured."""
    sizes = [f"model.dropout={case.dropout}", f"trainer.max_steps={steps + 2}", f"run.root={root}"]
    return [*BASE, *sizes]


def by_us(pipe: Connection, case: Case, steps: int, root: str) -> None:
    """Étude's run."""
    import pytorch_lightning as pl

    import etude
    from etude.training import run

    logging.getLogger("etude").setLevel(logging.ERROR)
    turns, build = Turns(pipe), run.build_parts

    class Pace(pl.Callback):
        def on_train_start(self, *_: Any) -> None:
            turns.begin()

        def on_train_batch_end(self, *_: Any) -> None:
            turns.step()

    def paced(checked: Any) -> Any:
        parts = build(checked)
        parts.callbacks.append(Pace())
        return parts

    run.build_parts = paced
    run.train(etude.compose(*overrides(case, steps, root), f"run.stop_at_step={steps + 1}"))


def by_them(pipe: Connection, case: Case, steps: int, root: str) -> None:
    """The same with `transformers.Trainer`."""
    import transformers as hf
    from torch.utils.data import DataLoader

    import etude
    from etude.config.checks import check
    from etude.interop.pretrained import save_weights
    from etude.optim.adamw import parameter_groups
    from etude.training import run
    from etude.training.build import build_parts
    from etude.training.model import build_model

    logging.getLogger("etude").setLevel(logging.ERROR)
    hf.utils.logging.set_verbosity_error()
    turns = Turns(pipe)
    checked = check(etude.compose(*overrides(case, steps, root)))
    parts = build_parts(checked)
    data, clip = parts.data, parts.trainer.gradient_clip_val
    data.prepare(run.cache_folder(checked))
    data.attach(seed=checked.seed, micro_batch=None, total_steps=steps + 2)
    ours = build_model(checked, data.tokenizer_.vocab_size, len(data.labels))
    folder = Path(root) / "theirs"
    save_weights(ours, folder)
    model = hf.BertForSequenceClassification.from_pretrained(
        folder,
        hidden_dropout_prob=case.dropout,
        attention_probs_dropout_prob=0.0,
        attn_implementation="sdpa",
    )
    data.tokenizer_.save(folder / "tokenizer.json")
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]"
    )
    examples = data.table("train")
    batches = [data.train_dataloader().dataset.batches.step(n).tolist() for n in range(steps + 2)]

    class Pace(hf.TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            turns.begin()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.step()

    class Examples:
        def __len__(self) -> int:
            return len(examples)

        def __getitem__(self, index: int) -> dict[str, Any]:
            found = examples[index]
            return {"input_ids": found["tokens"].tolist(), "labels": int(found["labels"])}

    class InOurOrder(hf.Trainer):
        def get_train_dataloader(self) -> Any:
            there = DataLoader(Examples(), batch_sampler=batches, collate_fn=self.data_collator)
            return self.accelerator.prepare(there)

        def create_optimizer(self, *_: Any, **__: Any) -> Any:
            import torch

            recipe = parts.optimizer
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self.model, recipe.weight_decay),
                lr=recipe.lr,
                betas=recipe.betas,
                eps=recipe.eps,
                fused=True,
            )
            return self.optimizer

    asked = hf.TrainingArguments(
        str(folder / "run"),
        max_steps=steps + 1,
        per_device_train_batch_size=32,
        learning_rate=parts.optimizer.lr,
        lr_scheduler_type="constant",
        max_grad_norm=clip,
        logging_steps=parts.trainer.log_every_n_steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    InOurOrder(
        model,
        asked,
        train_dataset=Examples(),
        data_collator=hf.DataCollatorWithPadding(tokenizer),
        callbacks=[Pace()],
    ).train()


SIDES: dict[str, Callable[..., None]] = {"etude": by_us, "transformers": by_them}


def seconds_of(case: Case, stretches: int) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each stretch of each side, in turn, by the clock and of the processors; without
    the first, which warms up.

    Raises:
        RuntimeError: a side ended before its time.
    """
    context = multiprocessing.get_context("spawn")
    steps = STRETCH * (stretches + 1)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as root:
        pipes, processes = {}, []
        for name, side in SIDES.items():
            pipes[name], far = context.Pipe()
            process = context.Process(target=side, args=(far, case, steps, root), daemon=True)
            process.start()
            far.close()
            processes.append(process)
        for turn in range(stretches + 1):
            for name in SIDES if turn % 2 else reversed(SIDES):
                try:
                    pipes[name].send("go")
                    found[name].append(pipes[name].recv())
                except (EOFError, OSError) as error:
                    raise RuntimeError(f"{name} ended at turn {turn}") from error
        for pipe, process in zip(pipes.values(), processes, strict=True):
            with closing(pipe):
                pipe.send("go")
            process.join()
    return {name: times[1:] for name, times in found.items()}


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about finetuning."""
    return compared(quick, cpu_time=False)


def compared(quick: bool, cpu_time: bool) -> list[Row]:
    """The same, by the clock or by the time of the processors."""
    rows = []
    for case in CASES:
        both = seconds_of(case, case.stretches[quick])
        times = {name: [each[cpu_time] for each in found] for name, found in both.items()}
        speeds = {name: 32 * STRETCH / statistics.median(each) for name, each in times.items()}
        ratio = statistics.median(
            b / a for a, b in zip(times["etude"], times["transformers"], strict=True)
        )
        ours = f"{speeds['etude']:.1f} examples a second"
        theirs = f"Trainer {speeds['transformers']:.1f}"
        rows.append(at_least(TARGET, case.what, ours, theirs, ratio))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    asked = parser.parse_args()
    print(table(compared(asked.quick, asked.cpu_time)))


if __name__ == "__main__":
    main()
