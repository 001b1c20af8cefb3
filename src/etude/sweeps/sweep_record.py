"""Folder of a sweep, `experiments/_sweeps/<id>/`, whose files are updated while the sweep runs.

`sweep.json` contains the swept keys with their values, and the status of each job. `results.csv`
contains the metrics of the runs, and `logs/<key>.txt` the output of a job's process, where the key
is the job's identifier (`Job.key`). The id is
derived from the fixed overrides and the names of the swept keys, so a sweep with additional values
has the same folder.
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
from etude.records.files import remove_temporaries, write_json, write_text
from etude.records.opening import (
    LOCK,
    RESULTS,
    SWEEP,
    check_file_type,
    make_subfolder,
    open_for_append,
    path_exists,
)
from etude.records.record import Record
from etude.records.record_fields import best_validation, latest_metrics
from etude.records.registry import read_sweep, run_folder_in
from etude.records.signature import DIGITS, sha256_of
from etude.records.status import Status
from etude.records.storage import try_lock
from etude.records.text_tables import csv_text
from etude.secrets import mask_record
from etude.sweeps.expand import BASIC, Sweep
from etude.sweeps.job import EXECUTION_PREFIXES, Job, job_key, relative_path

log = logging.getLogger("etude")

FORMAT = 1
LOGS = "logs"


def sweep_folder(root: Path, sweep: Sweep) -> Path:
    """Returns the path of a sweep's folder, in the root folder of all runs."""
    fixed = [item for item in sweep.fixed if not item.startswith(EXECUTION_PREFIXES)]
    identity: dict[str, Any] = {
        "fixed": mask_record(sorted(fixed)),
        "axes": sorted(sweep.axes),
    }
    if sweep.sweeper != BASIC:  # a search over the same keys is another sweep
        identity["sweeper"] = sweep.sweeper
    return root / "_sweeps" / sha256_of(identity)[:DIGITS]


class SweepRecord:
    """Reader and writer of the files in a sweep's folder.

    Args:
        folder: the sweep's folder; see `sweep_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "sweep.json"

    def begin(self, sweep: Sweep) -> None:
        """Writes the requested jobs to `sweep.json`, next to the jobs of earlier starts.

        A requested job gets the status `waiting`, until it ends. A job that finished in an earlier
        start of the sweep keeps its status; one that failed is `waiting` again. Jobs of earlier
        starts that are not requested now stay only if they have a run folder.
        """
        make_subfolder(self.folder.parent.parent, *self.folder.parts[-2:])
        if path_exists(logs := self.folder / LOGS):  # a job's process could not report this
            check_file_type(os.lstat(logs), logs, "a folder")
        requested = [mask_record([item.lstrip("+") for item in job]) for job in sweep.jobs or ()]
        with self._changing() as info:
            info |= {"format": FORMAT, "id": self.folder.name, "sweeper": sweep.sweeper}
            info["fixed"] = mask_record(sweep.fixed)
            axes = info.setdefault("axes", {})
            for key, values in mask_record(sweep.axes).items():  # for an interval, its bounds
                known = axes.setdefault(key, [])
                known += [value for value in values if value not in known]
            info["starts"] = [*info.get("starts", []), provenance.timestamp()]
            info["asked"] = [job_key(job) for job in requested]
            jobs = {
                job["key"]: job for job in info.get("jobs", []) if {"key", "status"} <= set(job)
            }
            for overrides in requested:
                key = job_key(overrides)
                entry = {"key": key, "overrides": overrides, "status": Status.WAITING}
                if key not in jobs or jobs[key]["status"] != Status.FINISHED:
                    path = jobs.get(key, {}).get("path")
                    jobs[key] = entry | ({"path": path} if path else {})
            keep = info["asked"]
            info["jobs"] = [job for job in jobs.values() if job["key"] in keep or job.get("path")]

    def note(self, *ended: Job) -> None:
        """Writes the results of the given jobs, which have ended, to `sweep.json`."""
        with self._changing() as info:
            jobs = {job["key"]: job for job in info.get("jobs", []) if "key" in job}
            for job in ended:
                entry = {key: value for key, value in asdict(job).items() if value is not None}
                if job.path is not None:
                    entry["path"] = relative_path(job.path)
                if job.same_as == job.key:  # the earlier job has the same key and is recorded
                    continue
                if job.status is Status.REUSED:  # keeps the duration of the start that trained it
                    entry |= {
                        "status": Status.FINISHED,
                        "seconds": jobs.get(job.key, {}).get("seconds"),
                    }
                order = {"key": job.key, "label": job.label, "status": entry["status"]}
                jobs[job.key] = order | entry | {"ended": provenance.timestamp()}
            info["jobs"] = list(jobs.values())

    def finish(self) -> None:
        """Writes the file `results.csv`, with a row of metrics for each job that has a run folder.

        Logs a warning if the file cannot be written.
        """
        try:
            info = self.read()
        except RequestError:  # it was edited while the sweep ran
            return
        axes = list(info.get("axes", {}))
        root = self.folder.parent.parent
        rows = [_row(job, axes, root) for job in info.get("jobs", []) if job.get("path")]
        if rows:
            try:
                write_text(self.folder / "results.csv", _csv(rows), RESULTS)
            except OSError as error:
                log.warning("could not write %s: %s", self.folder / "results.csv", error)

    def read(self) -> dict[str, Any]:
        """Returns the content of `sweep.json`; an empty dict before the sweep's first start."""
        if not path_exists(self.file):
            return {}
        return read_sweep(self.file)

    def log_file(self, job: Job) -> Path:
        """Returns the path of the log file of a job's process."""
        return self.folder / LOGS / f"{job.key}.txt"

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """Context manager that yields the content of `sweep.json`, and finally writes it.

        The caller changes the yielded dict in place. During the block, the file is locked against
        other processes. If the block raises an exception, the file is not written. If the file is
        missing, an empty dict is yielded. A damaged file is renamed to `sweep.damaged`, and an
        empty dict is yielded, too.
        """
        with open_for_append(self.folder / ".lock", LOCK) as file:
            try_lock(file.fileno(), fcntl.LOCK_EX)
            remove_temporaries(self.folder, of=self.file.name)
            try:
                info = self.read()
            except RequestError:  # damaged; the runs have records of their own
                os.replace(self.file, self.file.with_suffix(".damaged"))
                info = {}
            yield info
            write_json(self.file, info, SWEEP)


def _row(job: dict[str, Any], axes: Sequence[str], root: Path) -> dict[str, Any]:
    values = dict(item.partition("=")[::2] for item in job.get("overrides", []))
    row: dict[str, Any] = {"job": job.get("key"), "status": job.get("status"), "path": job["path"]}
    row |= {axis: values.get(axis, "") for axis in axes}
    with suppress(RequestError):  # the run was deleted
        record = Record.read(run_folder_in(root, job["path"]))
        row |= {"seed": record.info.get("seed"), "step": record.step}
        row |= {"seconds": record.info.get("seconds")}
        row |= {k: v for k, v in latest_metrics(record).items() if not k.startswith("perf/")}
        if best_value := best_validation(record):
            name = f"best/{best_value['metric']}"
            row |= {name: best_value["value"], "best/step": best_value["step"]}
    return row


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return csv_text(columns, ([row.get(column, "") for column in columns] for row in rows))
