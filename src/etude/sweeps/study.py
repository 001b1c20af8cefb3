"""The record of a sweep: `experiments/_sweeps/<id>/`, kept up to date while it runs.

`sweep.json` says what varies and how every job ended, `results.csv` what the runs came to, and
`logs/<job>.txt` holds all that a job's process has said. An extended sweep is the same sweep: its
id comes from what is fixed and from the names of the axes.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from etude.errors import RequestError
from etude.records import provenance
from etude.records.facts import best, metric_facts
from etude.records.files import sweep_temporaries, write_json, write_text
from etude.records.opening import LOCK, RESULTS, SWEEP, appended, folder_in, is_there, must_be
from etude.records.record import Record
from etude.records.registry import place_in, read_sweep
from etude.records.signature import DIGITS, sha256_of
from etude.records.status import Status
from etude.records.storage import lock
from etude.records.tables import csv_text
from etude.secrets import without_secrets
from etude.sweeps.expand import BASIC, Sweep
from etude.sweeps.job import CARRIED_OUT, Job, key_of, place_of

log = logging.getLogger("etude")

FORMAT = 1
LOGS = "logs"


def sweep_folder(root: Path, sweep: Sweep) -> Path:
    """Where a sweep's record lies."""
    fixed = [item for item in sweep.fixed if not item.startswith(CARRIED_OUT)]
    identity: dict[str, Any] = {
        "fixed": without_secrets(sorted(fixed)),
        "axes": sorted(sweep.axes),
    }
    if sweep.sweeper != BASIC:  # a search over the same keys is another study
        identity["sweeper"] = sweep.sweeper
    return root / "_sweeps" / sha256_of(identity)[:DIGITS]


class Study:
    """A sweep's record.

    Args:
        folder: see `sweep_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "sweep.json"

    def begin(self, sweep: Sweep) -> None:
        """Notes what is asked for now: new jobs wait, those of another day are kept."""
        folder_in(self.folder.parent.parent, *self.folder.parts[-2:])
        if is_there(logs := self.folder / LOGS):  # a job's process that refuses it has no voice
            must_be(os.lstat(logs), logs, "a folder")
        asked = [without_secrets([item.lstrip("+") for item in job]) for job in sweep.jobs or ()]
        with self._changing() as info:
            info |= {"format": FORMAT, "id": self.folder.name, "sweeper": sweep.sweeper}
            info["fixed"] = without_secrets(sweep.fixed)
            axes = info.setdefault("axes", {})
            for key, values in without_secrets(sweep.axes).items():  # of an interval its ends
                known = axes.setdefault(key, [])
                known += [value for value in values if value not in known]
            info["starts"] = [*info.get("starts", []), provenance.now()]
            info["asked"] = [key_of(job) for job in asked]
            jobs = {
                job["key"]: job for job in info.get("jobs", []) if {"key", "status"} <= set(job)
            }
            for overrides in asked:
                key = key_of(overrides)
                told = {"key": key, "overrides": overrides, "status": Status.WAITING}
                if key not in jobs or jobs[key]["status"] != Status.FINISHED:
                    path = jobs.get(key, {}).get("path")
                    jobs[key] = told | ({"path": path} if path else {})
            keep = info["asked"]
            info["jobs"] = [job for job in jobs.values() if job["key"] in keep or job.get("path")]

    def note(self, *ended: Job) -> None:
        """Writes down how jobs ended."""
        with self._changing() as info:
            jobs = {job["key"]: job for job in info.get("jobs", []) if "key" in job}
            for job in ended:
                told = {key: value for key, value in asdict(job).items() if value is not None}
                if job.path is not None:
                    told["path"] = place_of(job.path)
                if job.same_as == job.key:  # of the same name, which has been noted
                    continue
                if job.status is Status.REUSED:  # it was trained another time, and took that time
                    told |= {
                        "status": Status.FINISHED,
                        "seconds": jobs.get(job.key, {}).get("seconds"),
                    }
                order = {"key": job.key, "label": job.label, "status": told["status"]}
                jobs[job.key] = order | told | {"ended": provenance.now()}
            info["jobs"] = list(jobs.values())

    def finish(self) -> None:
        """Writes `results.csv`: a row for each job with a record.

        A file that cannot be written is reported; how the jobs ended is not affected by it.
        """
        try:
            info = self.read()
        except RequestError:  # somebody has written into it meanwhile
            return
        axes = list(info.get("axes", {}))
        root = self.folder.parent.parent
        rows = [_row(job, axes, root) for job in info.get("jobs", []) if job.get("path")]
        if rows:
            try:
                write_text(self.folder / "results.csv", _csv(rows), RESULTS)
            except OSError as error:
                log.warning("%s could not be written: %s", self.folder / "results.csv", error)

    def read(self) -> dict[str, Any]:
        """The content of `sweep.json`; empty before the first job."""
        if not is_there(self.file):
            return {}
        return read_sweep(self.file)

    def log_file(self, job: Job) -> Path:
        """What the job's process says goes there."""
        return self.folder / LOGS / f"{job.key}.txt"

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The record, to be changed while no other process does."""
        with appended(self.folder / ".lock", LOCK) as file:
            lock(file.fileno(), fcntl.LOCK_EX)
            sweep_temporaries(self.folder, of=self.file.name)
            try:
                info = self.read()
            except RequestError:  # damaged: the runs' own records are the truth
                os.replace(self.file, self.file.with_suffix(".damaged"))
                info = {}
            yield info
            write_json(self.file, info, SWEEP)


def _row(job: dict[str, Any], axes: Sequence[str], root: Path) -> dict[str, Any]:
    values = dict(item.partition("=")[::2] for item in job.get("overrides", []))
    row: dict[str, Any] = {"job": job.get("key"), "status": job.get("status"), "path": job["path"]}
    row |= {axis: values.get(axis, "") for axis in axes}
    with suppress(RequestError):  # removed since
        record = Record.read(place_in(root, job["path"]))
        row |= {"seed": record.info.get("seed"), "step": record.step}
        row |= {"seconds": record.info.get("seconds")}
        row |= {k: v for k, v in metric_facts(record).items() if not k.startswith("perf/")}
        if found := best(record):
            row |= {f"best/{found['metric']}": found["value"], "best/step": found["step"]}
    return row


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return csv_text(columns, ([row.get(column, "") for column in columns] for row in rows))
