"""The notebook door: compose, train, and ask any run anything."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from etude.config.checks import Checked, check
from etude.config.compose import compose as compose_config
from etude.console import show_messages
from etude.errors import Problem, RequestError
from etude.exclusive import used_elsewhere
from etude.records.config_file import portable, read_config
from etude.records.facts import best, config_facts, fact, metric_facts, must_exist
from etude.records.filters import parse
from etude.records.integrity import CONFIG, METRICS, TOKENIZER, is_hashed
from etude.records.metrics import read_frame
from etude.records.record import Record
from etude.records.registry import find, scan, tell_damaged

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from etude.analysis.comparison import Comparison
    from etude.analysis.groups import Groups
    from etude.analysis.learning_rates import LearningRates
    from etude.data.evaluated import Evaluated, Request
    from etude.models.language_model import LanguageModel
    from etude.models.seq2seq import Seq2Seq
    from etude.models.text_encoder import TextEncoder
    from etude.models.textual import Trained
    from etude.sweeps.plan import PlannedJob
    from etude.tasks.base import Task


def compose(*overrides: str | Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """The very config that `etude train OVERRIDES` would run.

    Args:
        overrides: in Hydra's grammar, one a string: `"experiment=nano", "optimizer.lr=3e-4"`,
            or a list of them.
        config_dir: a folder of your own configs.

    Raises:
        RequestError: with every mistake found.
    """
    return compose_config(_typed(overrides), config_dir=config_dir)


def _typed(overrides: Sequence[str | Sequence[str]]) -> list[str]:
    return [o for item in overrides for o in ([item] if isinstance(item, str) else item)]


def train(config: DictConfig) -> Run:
    """Trains what `config` describes, or what is left of it, or returns it if it is done.

    The run may build classes of the modules in the config's `extensions`, as the training did.

    Raises:
        RequestError, RunHeld, RunFailed, Interrupted: see `etude.training.run.train`.
    """
    show_messages()
    return Run(train_record(config).record, trust=list(config.extensions))


def train_record(config: DictConfig, checked: Checked | None = None) -> Any:
    """`train`, with how it ended: an `etude.training.state.Outcome`.

    Args:
        checked: the config, if it was checked.
    """
    from etude.config.checks import Unsound, check
    from etude.training.state import finished_at_once

    try:
        checked = checked or check(config)
        outcome = finished_at_once(checked)
        if outcome is not None:
            return outcome
    except Unsound:
        if "torch" not in sys.modules:  # what constructors refuse besides would take seconds
            raise
    from etude.analysis.epilogue import finish
    from etude.training.run import train as train_run

    return train_run(config, partial(finish, options=config.run), checked)


def plan(
    *overrides: str | Sequence[str],
    multirun: bool = False,
    config_dir: str | Path | None = None,
    measure: bool = True,
) -> list[PlannedJob]:
    """What `train` would do: each job's state and what it takes. Nothing is trained or written.

    Args:
        overrides, config_dir: as for `compose`.
        multirun: commas sweep.
        measure: try a few steps of a model whose speed no earlier run tells.

    Raises:
        RequestError: an override is wrong whatever the swept values are.
    """
    from etude.sweeps.plan import plan as planned

    folder = None if config_dir is None else str(config_dir)
    return planned(_typed(overrides), multirun=multirun, config_dir=folder, measure=measure)


def find_learning_rate(
    config: DictConfig, *, lowest: float = 1e-6, highest: float = 1.0, steps: int = 100
) -> LearningRates:
    """Trains a model that is thrown away with a rising learning rate (Smith 2015), and says at
    which the loss falls most: `.suggestion`, `.steepest`, `.tenth_of_minimum`, `.notes`.

    A figure and the numbers lie in `.folder`, `<run.root>/_lr/<signature>`; there is no run.

    Args:
        config: of the run, as for `train`.
        lowest, highest: the first step's `optimizer.lr` and the last's; other rates that the
            optimizer has are in proportion.
        steps: at most; it ends where the loss is 4 times its minimum, or no finite number.

    Raises:
        InvalidArguments: this is no range.
        RequestError, Interrupted: as of `train`.
        EtudeError: the loss is no finite number from the beginning.
    """
    from etude.analysis.learning_rates import read_sweep, write
    from etude.training.build import check_all
    from etude.training.range_test import range_test

    show_messages()
    checked = check_all(config)
    sweep = range_test(checked, lowest=lowest, highest=highest, steps=steps)
    found = read_sweep(sweep, steps)
    write(found, {"name": checked.name, "overrides": checked.shown["run"]["overrides"]})
    return found


def coordinate_check(
    config: DictConfig,
    widths: Sequence[int],
    *,
    steps: int = 4,
    seeds: Sequence[int] = (0,),
    beside_standard: bool = False,
    figure: str | Path | None = None,
) -> pd.DataFrame:
    """How the sizes of what a model computes change with its width, in a few steps of training that
    leave no record: whether its muP is right.

    Example:
        cfg = etude.compose("experiment=nano", "model.mup_base_dim=64")
        etude.coordinate_check(cfg, [64, 128, 256, 512], figure="check.png")

    Args, returns and raises: see `etude.analysis.coordinates.coordinate_check`; its `slopes` of the
    result are the powers of the width.
    """
    from etude.analysis import coordinates

    return coordinates.coordinate_check(
        config, widths, steps=steps, seeds=seeds, beside_standard=beside_standard, figure=figure
    )


def load_run(
    run: str | Path,
    *,
    root: str | Path = "experiments",
    trust: Sequence[str] = (),
    unfinished: bool = False,
) -> Run:
    """A run by its path, a signature prefix, or a name (its latest finished run).

    Args:
        run: what to load; a folder may have been moved.
        root: where names and prefixes are looked up.
        trust: modules of others that the run's config may name. Without it only Étude's own
            classes are built, and nothing that the record asks for is imported.
        unfinished: a name without a finished run means its latest run.

    Raises:
        RequestError: no such run, or its config names what is not trusted.
    """
    found = Run(find(str(run), Path(root), unfinished=unfinished), trust=trust)
    _ = found.checked  # refuse now what could not be built later
    return found


def load_pretrained(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    adapter: str | Path | None = None,
) -> LanguageModel | Seq2Seq | TextEncoder:
    """Released weights in our own modules, with their tokenizer.

    GPT-2, GPT-NeoX, Llama and Qwen3 become a `LanguageModel`; T5 and Marian a `Seq2Seq`; BERT and
    RoBERTa a `TextEncoder`. Nothing that the files contain is run.

    Args:
        source: a folder with `config.json`, a `.safetensors` file beside one, a `.gguf` file, or a
            hub id (`gpt2`, `owner/name`, `owner/name/file.gguf`), which is downloaded once.
        dtype: of the weights, such as `"bfloat16"`; None is the files'.
        device: where they shall lie, such as `"cuda"`.
        revision: a branch, tag or commit on the hub.
        adapter: a folder with low-rank changes for these weights, as `peft` writes it; they become
            part of the matrices.

    Raises:
        RequestError: the source cannot be read; it names what was expected.
    """
    from etude.interop.released import read, with_text

    released = read(source, dtype=dtype, device=device, revision=revision)
    if adapter is not None:
        import torch

        from etude.interop.adapter import merge_adapter
        from etude.nn.drawing import DrawingFrom

        with DrawingFrom(torch.Generator()):  # low-rank changes draw weights, which are replaced
            merge_adapter(released.loaded, Path(adapter))
    return with_text(released)


def runs(root: str | Path = "experiments") -> Runs:
    """All runs below a folder.

    Records that cannot be read are left out and named in one line on standard error.

    Raises:
        RequestError: there is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise RequestError(Problem("root", "a folder of runs", str(root)))
    damaged: list[RequestError] = []
    found = Runs([Run(record) for record in scan(folder, damaged)])
    tell_damaged(damaged)
    return found


class Run:
    """A run's record, read from its files.

    Attributes:
        record: the files themselves.
    """

    def __init__(self, record: Record, *, trust: Sequence[str] = ()) -> None:
        self.record = record
        self._trust = list(trust)

    @property
    def path(self) -> Path:
        """The record's folder."""
        return self.record.path

    @property
    def status(self) -> str:
        """running, finished, failed, interrupted, paused, diverged or oom."""
        return self.record.status

    @property
    def label(self) -> str:
        """What distinguishes the run from its experiment file."""
        return self.record.label

    @property
    def summary(self) -> dict[str, Any]:
        """The content of `run.json`."""
        return self.record.info

    @cached_property
    def config(self) -> DictConfig:
        """The composed config, as the record holds it.

        Raises:
            RequestError: it, or `run.json`, was changed since it was written.
        """
        self.record.check(CONFIG)
        return read_config(self.path / "config.yaml")

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a logged step: `step`, `tokens`, `time`, `train/loss`, `val/loss`, ...

        Raises:
            RequestError: those of a finished run were changed since they were written.
        """
        if self.record.info.get("status") == "finished":
            self.record.check(METRICS)
        return read_frame(self.path / "metrics.jsonl")

    @cached_property
    def checked(self) -> Checked:
        """The config, checked by the constructors that it names."""
        return check(portable(self.config), trust=self._trust)

    def tokenizer(self) -> Any:
        """The tokenizer that the run was trained with.

        Raises:
            RequestError: the file is missing, or was changed since it was written.
        """
        from etude.data.tokenizer import Tokenizer

        self.record.check(TOKENIZER)
        found = Tokenizer.load(self.path / TOKENIZER, links=False)
        stated = self.summary.get("tokenizer", {}).get("fingerprint")
        if not is_hashed(self.summary) and found.fingerprint != stated:
            told = "%s does not have the fingerprint that run.json states: it may have been changed"
            logging.getLogger("etude").warning(told, self.path / TOKENIZER)
        return found

    def model(self, which: str = "best", *, merged: bool = True) -> Trained:
        """The trained model, with its tokenizer if it reads text, in evaluation mode.

        Args:
            which: `best` (by validation), `last`, a step that has a checkpoint, `average` (the mean
                of all that are kept) or `average:K` (of the last K).
            merged: low-rank changes become part of the matrices that they change.

        Raises:
            RequestError: no such checkpoint, fewer than K, a damaged one, or another than was
                saved.
        """
        from etude.models.textual import for_use

        tokenizer = self.tokenizer()
        module = self._module(which, tokenizer.vocab_size, merged=merged)
        return for_use(module.eval(), tokenizer, self.labels)

    def task(self, which: str = "best") -> Task:
        """The run's task with the trained model, ready to evaluate and predict.

        Args:
            which: the checkpoint, as for `model`.

        Raises:
            RequestError: as for `model`.
        """
        from etude.tasks.base import Setup

        tokenizer = self.tokenizer()
        module = self._module(which, tokenizer.vocab_size)
        setup = Setup(module.eval(), labels=self.labels, tokenizer=tokenizer)
        made: Task = self.checked.nodes["task"].build()(setup=setup)
        return made

    @property
    def labels(self) -> list[str]:
        """The names of the data's labels or tags, by number; empty where there are none."""
        found: list[str] = self.summary.get("data", {}).get("labels", [])
        return found

    def _module(self, which: str, vocabulary: int, *, merged: bool = True) -> Any:
        """The trained `torch.nn.Module`."""
        import torch

        from etude.training.checkpoints import load_mean
        from etude.training.model import build_model
        from etude.training.room import check_weights

        folders = self.record.chosen(which).folders
        self.record.check_weights(folders)
        weights = load_mean(folders)
        changed = bool(self.checked.config.init_from.lora.rank)
        there = sum(weight.numel() for weight in weights.values())
        elements = None if changed else there
        check_weights(self.checked, vocabulary, len(self.labels), elements)
        # another thread may be training, with torch's own generator
        module = build_model(
            self.checked, vocabulary, len(self.labels), generator=torch.Generator()
        )
        if changed:  # the rest is the source's
            from etude.nn.lora import merge
            from etude.training.initial import Initial

            with _quiet():
                Initial.fill(module, self.checked.config.init_from, self.path.parent.parent)
        try:
            module.load_state_dict(weights, strict=not changed)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise RequestError(
                Problem(str(self.path), "weights that fit the record's config", hint=reason)
            ) from error
        if changed and merged:
            merge(module)
        return module

    def evaluate(
        self,
        split: Any = "val",
        *,
        sequence_length: int | None = None,
        stride: int | None = None,
        which: str = "best",
    ) -> dict[str, float]:
        """Scores a checkpoint on a whole split of the run's own data.

        Args:
            split: `val` or `train`; `test` where the data has one.
            sequence_length: of a language model, windows of this length instead of the training's.
            stride: of a language model, the windows overlap, and of each but the first only the
                last `stride` tokens count, so that these have seen many before them.
            which: the checkpoint, as for `model`.

        Raises:
            RequestError: the data is gone or is not what the run was trained on, or the model's
                positions end before `sequence_length`.
        """
        from etude.analysis.scoring import options_of, write_evaluation
        from etude.data.evaluated import Request

        data = self.data()
        options = options_of(self, data, {"sequence_length": sequence_length, "stride": stride})
        asked = Request(split)
        evaluated = self.evaluated(data, asked)
        if evaluated.rows:  # what is said of each is kept in the record
            return dict(write_evaluation(self, evaluated, asked, options, which)["metrics"])
        return self.task(which).evaluate(evaluated, options).metrics

    def predict(
        self,
        texts: Sequence[str],
        *,
        pair: str | None = None,
        which: str = "best",
        beams: int | None = None,
        length_penalty: float | None = None,
    ) -> list[dict[str, Any]]:
        """What the run says of texts: `label` and `probabilities`, `words` and `tags`, or `target`.

        Args:
            pair: of a run on pairs of texts, the second one.
            which: the checkpoint, as for `model`.
            beams, length_penalty: of a translation's search for targets; 4 and 1 if None.

        Raises:
            RequestError: an empty text, or a run that says nothing of a text alone.
        """
        from etude.analysis.predicting import Predictor

        asked = Predictor(self, which, beams=beams, length_penalty=length_penalty)
        return list(asked(texts, pair))

    def scores(self, split: str = "val", *, which: str = "best") -> list[float]:
        """Of each example of a split, in their order, how well it is done: of a language model the
        loss of each window, in nats a token; else a score from 0 to 1 (whether a label is right,
        the part of the tags that are, chrF of a target).

        Computed once and kept in the record, in `predictions/`.

        Raises:
            RequestError: as for `evaluate`.
        """
        from etude.analysis.scoring import example_scores

        return example_scores(self, split, which)

    def batch(self, step: int) -> dict[str, Any]:
        """All that an optimizer step read, over all processes, as one batch: tensors by name.

        Args:
            step: as in the metrics: the first is 1.

        Raises:
            RequestError: the run has no such step, or its data is gone or is not what it was
                trained on.
        """
        from etude.analysis.ledger import batch_of

        return batch_of(self, step)

    def places(self, step: int) -> pd.DataFrame:
        """Where the examples of an optimizer step came from: `example`, `document`, `source`, and
        of running text the document's tokens `first` up to `end`.

        Raises:
            RequestError: see `batch`.
        """
        import pandas as pd

        from etude.analysis.ledger import places_of

        return pd.DataFrame(places_of(self, step))

    def readings(self, text: str) -> pd.DataFrame:
        """The optimizer steps that have read a text: `step`, `example`, where the text stands, and
        whether the example holds the `whole` of it.

        Args:
            text: as it stands in the training data.

        Raises:
            RequestError: the training split does not hold it, or see `batch`.
        """
        import pandas as pd

        from etude.analysis.ledger import readings_of

        found = readings_of(self, text)
        none = ["step", "example", "document", "source", "whole"]
        return pd.DataFrame(found) if found else pd.DataFrame(columns=none)

    def data(self) -> Any:
        """The run's data module, not prepared: its files need not be there."""
        data = self.checked.nodes["data"].build()
        task: Any = self.checked.nodes["task"].build()
        data.for_task(task.constructor.objective(**task.arguments))
        return data

    def evaluated(self, data: Any, asked: Request) -> Evaluated:
        """What of the run's data, or of other files, is to be evaluated.

        Args:
            data: the run's; it is prepared unless other files are asked for.

        Raises:
            RequestError: the data is gone, is not what the run was trained on, or lacks what is
                asked.
        """
        if asked.files is None:
            self.prepare(data)
        asked = replace(asked, tokenizer=self.tokenizer(), labels=self.labels)
        found: Evaluated = data.evaluated_with_rows(asked)
        return found

    def prepare(self, data: Any) -> None:
        """Prepares the run's own data.

        Raises:
            RequestError: it is gone, or is not what the run was trained on.
        """
        from etude.training.place import cache_folder

        with _quiet():
            data.check()
        found, expected = data.fingerprint(), self.summary["data"]["fingerprint"]
        if found != expected:
            raise RequestError(Problem("data", f"the content trained on ({expected})", found))
        with _quiet():
            data.prepare(cache_folder(self.checked))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status}, {self.label!r})"


@contextmanager
def _quiet() -> Iterator[None]:
    """What preparing would say was said when the run was trained.

    The level belongs to the whole process, so while another thread trains it stays as it is.
    """
    if used_elsewhere():
        yield
        return
    logger = logging.getLogger("etude")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class Runs(Sequence[Run]):
    """Several runs, and one table of them."""

    def __init__(self, found: Sequence[Run]) -> None:
        self._runs = list(found)

    def __getitem__(self, index: Any) -> Any:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def filter(self, *conditions: str) -> Runs:
        """Those that fulfil all conditions, as typed after `etude runs list`.

        Example:
            runs("experiments/nano").filter("optimizer.lr>1e-3", "model.position=rotary")

        Raises:
            RequestError: no condition, or about a key that none of these runs has.
        """
        filters = [parse(condition) for condition in conditions]
        records = [run.record for run in self._runs]
        must_exist([(one.key, "condition") for one in filters], records)
        fitting = [run for run in self._runs if all(one.matches(run.record) for one in filters)]
        return Runs(fitting)

    def frame(self) -> pd.DataFrame:
        """One row a run: what it is, its config's columns, its latest metrics."""
        import pandas as pd

        return pd.DataFrame([_row(run.record) for run in self._runs])

    def compare(self, *metrics: str, x: str = "step", log: str = "") -> Comparison:
        """What differs between these runs, how they went, and their curves in one figure.

        Args:
            metrics: a panel each; none takes the metric by which the runs chose their best.
            x: `step`, `tokens` or `time`.
            log: axes with logarithmic scale: `x`, `y` or `xy`.

        Raises:
            RequestError: there are no runs, or none has a metric.
        """
        from etude.analysis.comparison import Comparison

        return Comparison([run.record for run in self._runs], metrics=metrics, x=x, log=log)

    def group(self, metric: str | None = None, *, by: Sequence[str] = ()) -> Groups:
        """The finished ones by their config, seeds aside: means, spread, curves with bands.

        Args:
            metric: None is the best of that by which the runs chose their best.
            by: keys that make a group instead of the whole config.

        Raises:
            RequestError: no finished run, or none has the metric.
        """
        from etude.analysis.groups import Groups

        finished = [run.record for run in self._runs if run.status == "finished"]
        return Groups(finished, metric=metric, by=by)

    def significance(self, split: str = "val") -> pd.DataFrame:
        """Whether the others differ from the first, tested on the losses of the same windows.

        Returns:
            A row for each run but the first: `difference` (its mean loss, or score, minus the
            first's), its 95 % interval `low` and `high`, p-values `permutation` and `bootstrap`,
            `holm`, the former corrected for the number of runs, and where examples are right or
            wrong `mcnemar`.

        Raises:
            RequestError: fewer than two runs, runs on different data or windows, or as `scores`.
        """
        from etude.analysis.significance import compared

        return compared(self._runs, split)

    def __repr__(self) -> str:
        return (
            f"Runs({len(self._runs)}: " + ", ".join(run.path.name for run in self._runs[:5]) + ")"
        )


def _row(record: Record) -> dict[str, Any]:
    head = {
        key: fact(record, key)
        for key in ("name", "signature", "status", "label", "parameters", "step")
    }
    config = {key: value for key, value in config_facts(record).items() if key not in head}
    found = best(record)
    scores = {f"best/{found['metric']}": found["value"]} if found else {}
    return head | config | metric_facts(record) | scores
