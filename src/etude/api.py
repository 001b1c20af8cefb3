"""The notebook door: compose, train, and ask any run anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from etude.config.checks import Checked, check
from etude.config.compose import compose as compose_config
from etude.config.schema import Config
from etude.console import show_messages
from etude.errors import InvalidArguments, Problem, RequestError
from etude.records.record import Record
from etude.records.registry import find, scan

if TYPE_CHECKING:
    import pandas as pd

    from etude.models.language_model import LanguageModel


def compose(*overrides: str | Sequence[str], config_dir: str | Path | None = None) -> DictConfig:
    """The very config that `etude train OVERRIDES` would run.

    Args:
        overrides: in Hydra's grammar, one a string: `"experiment=nano", "optimizer.lr=3e-4"`,
            or a list of them.
        config_dir: a folder of your own configs.

    Raises:
        RequestError: with every mistake found.
    """
    typed = [o for item in overrides for o in ([item] if isinstance(item, str) else item)]
    return compose_config(typed, config_dir=config_dir)


def train(config: DictConfig) -> Run:
    """Trains what `config` describes, or what is left of it, or returns it if it is done.

    Raises:
        RequestError, RunHeld, RunFailed, Interrupted: see `etude.training.run.train`.
    """
    show_messages()
    return Run(train_record(config).record)


def train_record(config: DictConfig) -> Any:
    """`train`, with how it ended: an `etude.training.run.Outcome`."""
    from etude.analysis.epilogue import finish
    from etude.training.run import train as train_run

    return train_run(config, partial(finish, options=config.run))


def load_run(
    run: str | Path, *, root: str | Path = "experiments", trust: Sequence[str] = ()
) -> Run:
    """A run by its path, a signature prefix, or a name (its latest finished run).

    Args:
        run: what to load; a folder may have been moved.
        root: where names and prefixes are looked up.
        trust: modules of others that the run's config may name. Without it only Étude's own
            classes are built, and nothing that the record asks for is imported.

    Raises:
        RequestError: no such run, or its config names what is not trusted.
    """
    found = Run(find(str(run), Path(root)), trust=trust)
    _ = found.checked  # refuse now what could not be built later
    return found


def runs(root: str | Path = "experiments") -> Runs:
    """All runs below a folder.

    Raises:
        RequestError: there is no such folder.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise RequestError(Problem("root", "a folder of runs", str(root)))
    return Runs([Run(record) for record in scan(folder)])


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
        """The composed config, as the record holds it."""
        return read_config(self.path / "config.yaml")

    @property
    def metrics(self) -> pd.DataFrame:
        """One row a logged step: `step`, `tokens`, `time`, `train/loss`, `val/loss`, ..."""
        import pandas as pd

        return pd.DataFrame(self.record.rows())

    @cached_property
    def checked(self) -> Checked:
        """The config, checked by the constructors that it names."""
        return check(self.config, trust=self._trust)

    def tokenizer(self) -> Any:
        """The tokenizer that the run was trained with."""
        from etude.data.tokenizer import Tokenizer

        return Tokenizer.load(self.path / "tokenizer.json")

    def model(self, which: str = "best") -> LanguageModel:
        """The trained model with its tokenizer, in evaluation mode.

        Args:
            which: `best` (by validation), `last`, or a step that has a checkpoint.

        Raises:
            RequestError: no such checkpoint, or a damaged one.
        """
        from etude.models.language_model import LanguageModel
        from etude.training.build import build_model
        from etude.training.checkpoints import load_weights

        tokenizer = self.tokenizer()
        weights = load_weights(self.record.checkpoint(which))
        module = build_model(self.checked, tokenizer.vocab_size)
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise RequestError(
                Problem(str(self.path), "weights that fit the record's config", hint=reason)
            ) from error
        return LanguageModel(module.eval(), tokenizer)

    def evaluate(
        self, split: str = "val", *, sequence_length: int | None = None, which: str = "best"
    ) -> dict[str, float]:
        """Scores a checkpoint on a whole split of the run's own data.

        Args:
            split: `val` or `train`.
            sequence_length: windows of this length instead of the training's.
            which: the checkpoint, as for `model`.

        Raises:
            RequestError: the data is gone or is not what the run was trained on, or the model's
                positions end before `sequence_length`.
        """
        if sequence_length is not None and sequence_length < 1:
            raise RequestError(Problem("sequence_length", "a positive number", sequence_length))
        from etude.tasks.causal_lm import score
        from etude.training.place import cache_folder

        data = self.checked.nodes["data"].build()
        data.check()
        found, expected = data.content_fingerprint(), self.summary["data"]["fingerprint"]
        if found != expected:
            raise RequestError(Problem("data", f"the content trained on ({expected})", found))
        data.prepare(cache_folder(self.checked))
        batches = data.evaluation_batches(split, sequence_length)
        try:
            return score(self.model(which).module, batches, data.bytes_predicted(split))
        except InvalidArguments as error:
            raise RequestError(error.problems) from error

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status}, {self.label!r})"


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

    def frame(self) -> pd.DataFrame:
        """One row a run: what it is, its config's columns, its final metrics."""
        import pandas as pd

        return pd.DataFrame([_row(run) for run in self._runs])

    def __repr__(self) -> str:
        return (
            f"Runs({len(self._runs)}: " + ", ".join(run.path.name for run in self._runs[:5]) + ")"
        )


def _row(run: Run) -> dict[str, Any]:
    info = run.summary
    head = {
        "name": info.get("name"),
        "signature": run.path.name,
        "status": run.status,
        "label": run.label,
        "parameters": info.get("parameters"),
        "step": info.get("step"),
    }
    plain = OmegaConf.to_container(run.config, resolve=False)
    skipped = {"name", "run", "vars"}
    columns = dict(_flatten({k: v for k, v in plain.items() if k not in skipped}))  # type: ignore[union-attr]
    best = info.get("best") or {}
    scores = {f"best/{best['metric']}": best["value"]} if best else {}
    return head | columns | info.get("final", {}) | scores


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, dict):
            yield from _flatten(value, path)
        elif key == "_target_":
            yield prefix, str(value).rpartition(".")[2]
        elif key != "_partial_":
            yield path, value


def read_config(path: Path) -> DictConfig:
    """A record's `config.yaml`, as data: no alias, no tag, nothing executed.

    Raises:
        RequestError: missing, no YAML, or YAML that a record never holds.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        events = list(yaml.parse(text, Loader=yaml.SafeLoader))
    except FileNotFoundError:
        raise RequestError(Problem(str(path), "a record's config")) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError, RecursionError) as error:
        raise RequestError(Problem(str(path), "valid YAML", hint=str(error))) from error
    if any(isinstance(event, yaml.AliasEvent) for event in events):
        raise RequestError(Problem(str(path), "YAML without aliases"))
    try:
        config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        hint = str(error).splitlines()[0]
        raise RequestError(
            Problem(str(path), "the keys and types of a config", hint=hint)
        ) from error
    assert isinstance(config, DictConfig)
    return config
