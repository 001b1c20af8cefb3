"""Records in the format of earlier versions, and records with forged hashes."""

from __future__ import annotations

import json
from pathlib import Path

from etude.records import integrity
from etude.records.record import Record


def as_older(record: Path) -> None:
    """Removes the hashes, the seals and the row intervals from a record."""
    info = json.loads((record / "run.json").read_text())
    del info["sha256"]
    info.pop("metrics_sha256", None)  # of a finished run
    for start in info["starts"]:
        del start["rows"]
    (record / "run.json").write_text(json.dumps(info))
    for file in record.glob("checkpoints/*/MANIFEST.json"):
        content = json.loads(file.read_text())
        del content["seal"], content["metrics"]
        file.write_text(json.dumps(content))


def with_hashes_that_fit(record: Path) -> None:
    """Updates a record's hashes to its current files: hashes detect accidents, not attacks."""
    found = Record.read(record)
    integrity.hash_files(found.info, record, [n for n in found.info["sha256"] if n != "run.json"])
    integrity.hash_fields(found.info, [key for key in found.info if key != "sha256"])
    found.update()
