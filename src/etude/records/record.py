"""Saved runs: the files in the folder of a run, `experiments/<name>/<signature>/`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from etude.counts import counted
from etude.errors import Problem, RequestError
from etude.records import integrity
from etude.records.files import read_json, write_json, write_text
from etude.records.lock import is_held
from etude.records.metrics_file import MetricsFile, read_latest, read_rows
from etude.records.opening import CONFIG, OVERRIDES, RUN, list_names, path_exists
from etude.records.signature import DIGITS, sha256_of
from etude.records.status import Status
from etude.secrets import mask_record

log = logging.getLogger("etude")

FORMAT = 1
STATUSES = tuple(status.value for status in Status if status.is_recorded)
FINAL_STATUSES = tuple(status for status in STATUSES if Status(status).is_final)
"""Statuses of runs that the same command only reports: repeated, they would end in the same way."""


_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "signature": (str,),
    "group": (str,),
    "label": (str,),
    "status": (str,),
    "seed": (int,),
    "parameters": (int,),
    "total_steps": (int,),
    "step": (int,),
    "tokens": (int,),
    "data": (dict,),
    "tokenizer": (dict,),
    "starts": (list,),
    "tags": (list,),
    "final": (dict,),
    "best": (dict, type(None)),
    "seconds": (int, float),
    "choices": (dict,),
    "config": (dict,),
    "sha256": (dict,),
    "accepted": (list,),
}


def _result_numbers(info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yields pairs of the key and the value of each result in `info`, the content of `run.json`.

    The keys are `final.<metric>` for each final metric, and `best.value`.
    """
    for metric, value in info.get("final", {}).items():
        yield f"final.{metric}", value
    yield "best.value", (info.get("best") or {}).get("value")


class Record:
    """A saved run: its folder and the content of its `run.json`.

    Args:
        path: the run's folder, `<root>/<name>/<signature>`; may have been moved after training.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = {}
        self._reported: set[str] = set()

    def __repr__(self) -> str:
        return f"Record({str(self.path)!r})"

    @classmethod
    def read(cls, path: Path) -> Record:
        """Returns the saved run in the folder `path`.

        Raises:
            RequestError: `run.json` is missing or damaged, or a newer version of Étude wrote it.
        """
        record = cls(path)
        file = os.path.join(path, "run.json")
        record.info = read_json(file, RUN)
        if not isinstance(record.info, dict) or record.info.get("format") != FORMAT:
            format_found = (
                record.info.get("format") if isinstance(record.info, dict) else record.info
            )
            raise RequestError(
                Problem(
                    f"{file}: format",
                    f"{FORMAT}",
                    format_found,
                    "was it written by a newer version of Étude?",
                )
            )
        for key, value in record.info.items():
            kinds = _TYPES.get(key, ())
            if kinds and not isinstance(value, kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                hint = "the file may be damaged"
                raise RequestError(
                    Problem(f"{file}: {key}", f"a value of type {expected}", value, hint)
                )
        for key, value in _result_numbers(record.info):
            if not isinstance(value, int | float | None):
                hint = "the file may be damaged"
                raise RequestError(Problem(f"{file}: {key}", "a number", value, hint))
        return record

    def update(self, **changes: Any) -> None:
        """Sets the fields `changes` of `run.json` and writes the file atomically.

        Passwords in URLs are masked.

        The hashes of the fields are updated, except for runs of older versions, which have no
        hashes.
        """
        hashed = not self.info or integrity.is_hashed(self.info)
        self.info.update(mask_record(changes))
        if hashed:
            integrity.hash_fields(self.info, changes)
            integrity.delete_checkpoint_hashes(self.info, self.path)
        write_json(self.path / "run.json", self.info, RUN)

    def forget(self, *keys: str) -> None:
        """Deletes the fields `keys` of `run.json` in memory; the next `update` writes the file."""
        for key in keys:
            self.info.pop(key, None)
        if integrity.is_hashed(self.info):
            integrity.hash_fields(self.info, keys)

    def note_files(self, *names: str) -> None:
        """Computes the hashes of files of the run; the next `update` saves the hashes in
        `run.json`.

        `names` are the files' paths relative to the run's folder.

        Raises:
            FileNotFoundError: a file is missing.
        """
        integrity.hash_files(self.info, self.path, names)

    def delete_checkpoint_hashes(self, after: int) -> None:
        """Deletes the hashes of the checkpoints after the step `after`, and of removed checkpoints.

        The next `update` writes `run.json`, which contains the hashes.
        """
        if integrity.is_hashed(self.info):
            integrity.delete_checkpoint_hashes(self.info, self.path, after)

    def check(self, *names: str) -> None:
        """Checks that the results in `run.json` and the files `names` are unchanged.

        The hashes in `run.json` show whether something was changed; see `etude.records.integrity`.

        Args:
            names: paths relative to the run's folder. Files without a hash are not checked.

        Raises:
            RequestError: fields or files were changed; the messages state how to restore them, or
                how to accept the changes.
        """
        if problems := list(integrity.change_problems(self.info, self.path, names)):
            raise RequestError(problems)
        for key in integrity.changed_fields(self.info):
            if key not in self._reported:
                self._reported.add(key)
                message = (
                    "%s/run.json: %s was edited after training (no result depends on this field);"
                    " to accept the edit, run %s"
                )
                log.warning(message, self.path, key, integrity.accept_command(self.path))

    def check_weights(self, folders: Sequence[Path]) -> None:
        """Checks that the checkpoints in `folders` are unchanged since training.

        Raises:
            RequestError: a checkpoint or a result in `run.json` was changed; see `check`.
        """
        self.check(*map(integrity.manifest_name, folders))

    def accept(self) -> list[str]:
        """Accepts manual edits of fields of `run.json` and of files: updates their hashes.

        The calling process must hold the lock of the run. The time and the accepted changes are
        stored in `run.json`.

        Returns:
            The accepted changes, as `integrity.accept` returns them: `run.json: tags` or the name
            of a file, for example. Empty if nothing was changed.

        Raises:
            RequestError: something was changed that may not be edited; see `integrity.accept`.
        """
        from etude.records.provenance import timestamp

        if changed := integrity.accept(self.info, self.path):
            before = self.info.get("accepted", [])
            self.update(accepted=[*before, {"time": timestamp(), "changed": changed}])
        return changed

    def write_config(self, config_yaml: str, overrides: Sequence[str]) -> None:
        """Writes the config to `config.yaml`, and the overrides to `overrides.yaml`.

        Raises:
            RequestError: the config is too large to be read again; no file is written.
        """
        from etude.records.config_file import check_simple_yaml

        check_simple_yaml(config_yaml, self.path / "config.yaml")
        write_text(self.path / "config.yaml", config_yaml, CONFIG)
        import yaml

        write_text(
            self.path / "overrides.yaml",
            yaml.safe_dump(mask_record(list(overrides)), allow_unicode=True, width=1000),
            OVERRIDES,
        )

    @property
    def status(self) -> str:
        """The run's status, such as `finished`, from `run.json`.

        If the status in the file is `running`, but no process holds the lock of the run, the status
        is `interrupted`.
        """
        status = str(self.info.get("status", "interrupted"))
        return "interrupted" if status == "running" and not is_held(self.path) else status

    @cached_property
    def metrics(self) -> MetricsFile:
        """Writer of `metrics.jsonl`."""
        return MetricsFile(self.path / "metrics.jsonl")

    def rows(self) -> list[dict[str, Any]]:
        """Returns the rows of the run's `metrics.jsonl`, one dictionary for each row."""
        return read_rows(self.path / "metrics.jsonl")

    @property
    def latest(self) -> dict[str, Any]:
        """Dictionary from each metric to its latest value; final values from `run.json` if the run
        is finished.
        """
        final: dict[str, Any] = self.info.get("final", {})
        return final or read_latest(self.path / "metrics.jsonl")

    @property
    def step(self) -> int:
        """Number of completed optimizer steps.

        During training, the number is that of the latest checkpoint or of the latest row of
        `metrics.jsonl`, whichever is larger. It is 0 before the first of both.
        """
        step: int = self.info.get("step", 0)
        logged = self.latest.get("step") if self.status == "running" else None
        return max(step, logged) if isinstance(logged, int) else step

    @property
    def first_start(self) -> dict[str, Any]:
        """Dictionary with the time, the host and the software versions of the first start of the
        run.

        The keys are those of `etude.records.provenance.start_entry`, and further ones such as
        `device`. The dictionary is empty if `run.json` contains no starts.
        """
        starts = self.info.get("starts", [])
        return starts[0] if starts and isinstance(starts[0], dict) else {}

    @property
    def last_start(self) -> dict[str, Any]:
        """Dictionary with the time, the host and the software versions of the last start of the
        run.

        The keys are those of `etude.records.provenance.start_entry`, and further ones such as
        `device`. The dictionary is empty if `run.json` contains no starts.
        """
        starts = self.info.get("starts", [])
        return starts[-1] if starts and isinstance(starts[-1], dict) else {}

    @property
    def config(self) -> dict[str, Any]:
        """The run's config: a dictionary from key paths, such as `model.dim`, to values.

        The values are read from `run.json` or, for runs of older versions, from `config.yaml`. The
        dictionary is empty if neither file contains the config.
        """
        recorded = self.info.get("config")
        return recorded if isinstance(recorded, dict) else self._config_file

    @cached_property
    def _config_file(self) -> dict[str, Any]:
        from etude.records.config_file import read_flat

        return read_flat(self.path / "config.yaml")

    @property
    def label(self) -> str:
        """The run's label: its overrides with shortened keys, as one text; see `build_label`.

        The text is empty if `build_label` omits all overrides.
        """
        return str(self.info.get("label", ""))

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Returns a pair of the step and the folder for each complete checkpoint, earliest first.

        A checkpoint is complete if its folder contains a manifest, which is written last.

        Raises:
            RequestError: the checkpoint folder is a link or cannot be read.
        """
        folder = self.path / "checkpoints"
        result = []
        for name in list_names(folder):
            match = re.fullmatch(r"step-(\d+)", name)
            if match and path_exists(folder / name / "MANIFEST.json"):
                result.append((int(match[1]), folder / name))
        return sorted(result)

    def checkpoint(self, which: str | int = "best") -> Path:
        """Returns the folder of a checkpoint.

        Args:
            which: `best` (the best validation), `last`, or the step of a checkpoint.

        Raises:
            RequestError: the checkpoint does not exist; the message lists the available steps.
        """
        available = dict(self.checkpoints())
        step: int | None = None
        if which == "last" and available:
            step = max(available)
        elif which == "best":
            best = self.info.get("best") or {}
            step = best.get("step", max(available) if available else None)
        elif str(which).isdecimal():
            step = int(which)
        if step not in available:
            if not available:
                expected = f"a run with at least one checkpoint; {self._short_name} has none"
                raise RequestError(Problem("which", expected, which))
            hint = f"available steps: {', '.join(map(str, available))}, in {self._short_name}"
            expected = "best, last, the step of a checkpoint, average (the mean weights of all "
            expected += "checkpoints), or average:K (of the last K checkpoints)"
            raise RequestError(Problem("which", expected, which, hint))
        return available[step]

    def chosen(self, which: str | int = "best") -> SelectedCheckpoints:
        """Returns the checkpoint that `which` selects, or several checkpoints to average.

        Args:
            which: as for `checkpoint`; or `average` for the average of all saved checkpoints, or
                `average:K` for the average of the last K.

        Raises:
            RequestError: the checkpoint does not exist, or there are fewer than K checkpoints; the
                message lists the available steps.
        """
        match = re.fullmatch(r"average(?::(\d+))?", str(which))
        count = None if match is None or match[1] is None else int(match[1])
        if match is None or count == 0:
            folder = self.checkpoint(which)
            return SelectedCheckpoints(folder.name, [folder])
        available = self.checkpoints()
        if len(available) < (count or 1):
            steps = ", ".join(str(step) for step, _ in available) or "none"
            hint = (
                f"available steps: {steps}, in {self._short_name}; to keep more checkpoints, "
                f"train with run.save_every=N run.keep_last={count or 2}"
            )
            saved = counted(len(available), "checkpoint")
            expected = f"an average of at most {saved}, as no more are saved"
            raise RequestError(Problem("which", expected, which, hint))
        selected = available[-count:] if count else available
        return SelectedCheckpoints(
            _average_name([step for step, _ in selected]), [folder for _, folder in selected]
        )

    @property
    def _short_name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"


@dataclass(frozen=True)
class SelectedCheckpoints:
    """One checkpoint, or several checkpoints whose weights are averaged.

    Attributes:
        name: text that identifies the weights in the names of output files: the name of the folder,
            such as `step-100`, or `average-` and the steps, such as `average-100-200`.
        folders: checkpoint folders, earliest first.
    """

    name: str
    folders: list[Path]


_MAX_NAMED_STEPS = 8
"""Maximum number of steps in a file name; instead of more steps, it has two of them and a hash."""


def _average_name(steps: Sequence[int]) -> str:
    if len(steps) <= _MAX_NAMED_STEPS:
        return "average-" + "-".join(map(str, steps))
    return f"average-{len(steps)}-{steps[0]}-{steps[-1]}-{sha256_of(list(steps))[:8]}"


def run_folder(root: Path, name: str, whole_signature: str) -> Path:
    """Returns the folder of a run, `<root>/<name>/<first 12 digits of the signature>`.

    If the same config was trained again (`run.on_existing=again`), the folders of the later runs
    have a suffix, such as `~2`. This function does not return these folders.
    """
    return root / name / whole_signature[:DIGITS]


def build_label(overrides: Sequence[str]) -> str:
    """Returns a run's label: its overrides with shortened keys.

    A key is shortened to its last component if that is unique. Overrides of `experiment`, `sweep`,
    `run`, `logger`, `hydra`, `name` and `extensions` are omitted. Of several overrides of a key,
    the last value counts.

    Example:
        >>> build_label(["experiment=debug", "model/position=rotary", "optimizer.lr=1e-3"])
        'position=rotary lr=1e-3'
    """
    values: dict[str, str] = {}  # of a repeated key, the last value counts
    for item in overrides:
        key, _, value = item.lstrip("+~").partition("=")
        top = re.split(r"[./]", key)[0]
        if top in ("experiment", "sweep", "run", "logger", "hydra", "name", "extensions"):
            continue
        unescaped = re.sub(r"\\(?=[^\w\s])", "", value)  # sweeps escape more characters than needed
        values[key] = mask_record(f"{key}={unescaped}").removeprefix(f"{key}=")
    short_keys = [re.split(r"[./]", key)[-1] for key in values]
    parts = [
        f"{short_key if short_keys.count(short_key) == 1 else key}={value}"
        for (key, value), short_key in zip(values.items(), short_keys, strict=True)
    ]
    return " ".join(parts)
