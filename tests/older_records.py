"""Records as earlier versions wrote them."""

from __future__ import annotations

import json
from pathlib import Path


def as_older(record: Path) -> None:
    """Takes the hashes, the seals and the rows' intervals out of a record."""
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
