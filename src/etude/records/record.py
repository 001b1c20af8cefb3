"""The record of one run: `experiments/<name>/<signature>/`, plain files and nothing else."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from etude.errors import Problem, RequestError
from etude.records import integrity
from etude.records.files import read_json, write_json, write_text
from etude.records.lock import is_held
from etude.records.metrics import MetricsFile, latest, read_rows
from etude.records.opening import CONFIG, OVERRIDES, RUN, is_there, names_in
from etude.records.signature import DIGITS, sha256_of
from etude.records.status import Status
from etude.secrets import without_secrets

log = logging.getLogger("etude")

FORMAT = 1
STATUSES = tuple(status.value for status in Status if status.recorded)
DONE = tuple(status for status in STATUSES if Status(status).over)
"""Statuses that the same command would reach again: it says so instead of repeating the work."""


_KINDS: dict[str, tuple[type, ...]] = {
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


def _numbers(info: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The results among the fields, by their path."""
    for metric, value in info.get("final", {}).items():
        yield f"final.{metric}", value
    yield "best.value", (info.get("best") or {}).get("value")


class Record:
    """A run's folder and the content of its `run.json`.

    Args:
        path: `<root>/<name>/<signature>`; may have been moved since it was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: dict[str, Any] = {}
        self._reported: set[str] = set()

    @classmethod
    def read(cls, path: Path) -> Record:
        """The record in `path`.

        Raises:
            RequestError: there is none, it is damaged, or a newer Étude wrote it.
        """
        record = cls(path)
        file = os.path.join(path, "run.json")
        record.info = read_json(file, RUN)
        if not isinstance(record.info, dict) or record.info.get("format") != FORMAT:
            found = record.info.get("format") if isinstance(record.info, dict) else record.info
            raise RequestError(
                Problem(f"{file}: format", f"{FORMAT}", found, "a newer étude wrote it?")
            )
        for key, value in record.info.items():
            kinds = _KINDS.get(key, ())
            if kinds and not isinstance(value, kinds):
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise RequestError(Problem(f"{file}: {key}", expected, value, "damaged?"))
        for key, value in _numbers(record.info):
            if not isinstance(value, int | float | None):
                raise RequestError(Problem(f"{file}: {key}", "a number", value, "damaged?"))
        return record

    def update(self, **changes: Any) -> None:
        """Changes fields of `run.json`, all or none; passwords in URLs stay out.

        The hashes of these fields change with them. A record of an older version, which has none,
        gets none by this.
        """
        hashed = not self.info or integrity.is_hashed(self.info)
        self.info.update(without_secrets(changes))
        if hashed:
            integrity.note_fields(self.info, changes)
            integrity.forget_checkpoints(self.info, self.path)
        write_json(self.path / "run.json", self.info, RUN)

    def forget(self, *keys: str) -> None:
        """Takes fields out of `run.json`; the next `update` writes it."""
        for key in keys:
            self.info.pop(key, None)
        if integrity.is_hashed(self.info):
            integrity.note_fields(self.info, keys)

    def note_files(self, *names: str) -> None:
        """Hashes files of the record, by their paths in it; the next `update` writes it."""
        integrity.note_files(self.info, self.path, names)

    def forget_checkpoints(self, after: int) -> None:
        """Drops the hashes of checkpoints of later steps; the next `update` writes it."""
        if integrity.is_hashed(self.info):
            integrity.forget_checkpoints(self.info, self.path, after)

    def check(self, *names: str) -> None:
        """Refuses `run.json` if a field that results depend on was changed since it was written,
        and each of the files `names` that was; see `integrity`.

        Args:
            names: paths of files in the record. One that is not hashed is not looked at.

        Raises:
            RequestError: names each change, and how to accept it.
        """
        if problems := list(integrity.problems(self.info, self.path, names)):
            raise RequestError(problems)
        for key in integrity.changed_fields(self.info):
            if key not in self._reported:
                self._reported.add(key)
                message = "%s/run.json: %s was changed by hand, which no result depends on; %s"
                log.warning(message, self.path, key, integrity.accepting(self.path))

    def check_weights(self, folders: Sequence[Path]) -> None:
        """Refuses checkpoints that are not those that training wrote.

        Raises:
            RequestError: as of `check`.
        """
        self.check(*map(integrity.manifest_name, folders))

    def accept(self) -> list[str]:
        """Takes fields of `run.json` and files that were changed as they are now.

        The record's holder calls this. What was accepted, and when, is kept in `run.json`.

        Returns:
            What was changed, in words.

        Raises:
            RequestError: as of `integrity.accept`.
        """
        from etude.records.provenance import now

        if changed := integrity.accept(self.info, self.path):
            before = self.info.get("accepted", [])
            self.update(accepted=[*before, {"time": now(), "changed": changed}])
        return changed

    def write_config(self, config_yaml: str, overrides: Sequence[str]) -> None:
        """Writes `config.yaml` and `overrides.yaml`.

        Raises:
            RequestError: it could not be read again, being too large; nothing is written.
        """
        from etude.records.config_file import must_be_plain

        must_be_plain(config_yaml, self.path / "config.yaml")
        write_text(self.path / "config.yaml", config_yaml, CONFIG)
        import yaml

        write_text(
            self.path / "overrides.yaml",
            yaml.safe_dump(without_secrets(list(overrides)), allow_unicode=True, width=1000),
            OVERRIDES,
        )

    @property
    def status(self) -> str:
        """As written, except that a `running` run whose process is gone was interrupted."""
        status = str(self.info.get("status", "interrupted"))
        return "interrupted" if status == "running" and not is_held(self.path) else status

    @cached_property
    def metrics(self) -> MetricsFile:
        """The writer of `metrics.jsonl`."""
        return MetricsFile(self.path / "metrics.jsonl")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`."""
        return read_rows(self.path / "metrics.jsonl")

    @property
    def latest(self) -> dict[str, Any]:
        """The latest value of each metric: of `run.json` where the run is finished."""
        final: dict[str, Any] = self.info.get("final", {})
        return final or latest(self.path / "metrics.jsonl")

    @property
    def step(self) -> int:
        """Optimizer steps done; `run.json` of a run in progress knows the last checkpoint's."""
        step: int = self.info.get("step", 0)
        logged = self.latest.get("step") if self.status == "running" else None
        return max(step, logged) if isinstance(logged, int) else step

    @property
    def last_start(self) -> dict[str, Any]:
        """When, where and with what it was last started; empty in a damaged record."""
        starts = self.info.get("starts", [])
        return starts[-1] if starts and isinstance(starts[-1], dict) else {}

    @property
    def config(self) -> dict[str, Any]:
        """The config's values by key path; from `config.yaml` for a record older than that field.

        Empty where neither can be read.
        """
        recorded = self.info.get("config")
        return recorded if isinstance(recorded, dict) else self._config_file

    @cached_property
    def _config_file(self) -> dict[str, Any]:
        from etude.records.config_file import read_flat

        return read_flat(self.path / "config.yaml")

    @property
    def label(self) -> str:
        """What distinguishes this run from its experiment file."""
        return str(self.info.get("label", ""))

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Whole checkpoints, earliest first.

        Raises:
            RequestError: their folder is a link or cannot be read.
        """
        folder = self.path / "checkpoints"
        found = []
        for name in names_in(folder):
            match = re.fullmatch(r"step-(\d+)", name)
            if match and is_there(folder / name / "MANIFEST.json"):
                found.append((int(match[1]), folder / name))
        return sorted(found)

    def checkpoint(self, which: str = "best") -> Path:
        """The folder of the `best` (by validation), the `last`, or a numbered checkpoint.

        Raises:
            RequestError: there is no such checkpoint; names those that are there.
        """
        found = dict(self.checkpoints())
        step: int | None = None
        if which == "last" and found:
            step = max(found)
        elif which == "best":
            best = self.info.get("best") or {}
            step = best.get("step", max(found) if found else None)
        elif str(which).isdecimal():
            step = int(which)
        if step not in found:
            there = ", ".join(str(s) for s in found) or "none"
            expected = "best, last, a step, average or average:K"
            raise RequestError(Problem(self._asked, expected, which, f"there: {there}"))
        return found[step]

    def chosen(self, which: str = "best") -> Chosen:
        """The checkpoints that `which` means: one, as `checkpoint` takes it; of `average` all that
        are kept, of `average:K` the last K.

        Raises:
            RequestError: there is no such checkpoint, or fewer than K; names those that are there.
        """
        asked = re.fullmatch(r"average(?::(\d+))?", str(which))
        count = None if asked is None or asked[1] is None else int(asked[1])
        if asked is None or count == 0:
            folder = self.checkpoint(which)
            return Chosen(folder.name, [folder])
        found = self.checkpoints()
        if len(found) < (count or 1):
            steps = ", ".join(str(step) for step, _ in found) or "none"
            hint = f"there: {steps}; run.keep_last={count or 2} beside run.save_every keeps as many"
            expected = f"at most the {len(found)} checkpoints that are kept"
            raise RequestError(Problem(self._asked, expected, which, hint))
        taken = found[-count:] if count else found
        return Chosen(_name_of([step for step, _ in taken]), [folder for _, folder in taken])

    @property
    def _asked(self) -> str:
        return f"{self.path}: checkpoint"


@dataclass(frozen=True)
class Chosen:
    """Checkpoints whose weights are taken, or their mean.

    Attributes:
        name: for files about just these weights.
        folders: the earliest first.
    """

    name: str
    folders: list[Path]


_NAMED = 8
"""Steps that a file's name lists; of more, the first, the last and a hash of all."""


def _name_of(steps: Sequence[int]) -> str:
    if len(steps) <= _NAMED:
        return "average-" + "-".join(map(str, steps))
    return f"average-{len(steps)}-{steps[0]}-{steps[-1]}-{sha256_of(list(steps))[:8]}"


def run_folder(root: Path, name: str, whole_signature: str) -> Path:
    """Where a run lives, before `~2` and so on."""
    return root / name / whole_signature[:DIGITS]


def label_of(overrides: Sequence[str]) -> str:
    """A run's label: what was typed beside the experiment, keys shortened to their last part.

    Example:
        >>> label_of(["experiment=debug", "model/position=rotary", "optimizer.lr=1e-3"])
        'position=rotary lr=1e-3'
    """
    told: dict[str, str] = {}  # a key that was typed twice counts as typed last
    for item in overrides:
        key, _, value = item.lstrip("+~").partition("=")
        top = re.split(r"[./]", key)[0]
        if top in ("experiment", "sweep", "run", "logger", "hydra", "name", "extensions"):
            continue
        plain = re.sub(r"\\(?=[^\w\s])", "", value)  # a sweep escapes what it need not
        told[key] = without_secrets(f"{key}={plain}").removeprefix(f"{key}=")
    short = [re.split(r"[./]", key)[-1] for key in told]
    parts = [
        f"{brief if short.count(brief) == 1 else key}={value}"
        for (key, value), brief in zip(told.items(), short, strict=True)
    ]
    return " ".join(parts)
