"""Reads the files of the loggers: TensorBoard's with its own reader, W&B's as its own messages.

A `.wandb` file is a LevelDB log (google/leveldb, doc/log_format.md): blocks of 32 KiB that contain
chunks of checksum (4 bytes), length (2), type (1: full, 2: first, 3: middle, 4: last) and data.
W&B adds a header of seven bytes: `:W&B`, two magic bytes, a version.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etude.records.record import Record

BOTH = "logger=[tensorboard,wandb]"
BLOCK, HEAD = 32768, 7


def wandb_file(record: Path) -> Path:
    (found,) = (record / "wandb").rglob("*.wandb")
    return found


def wandb_records(path: Path) -> Iterator[Any]:
    """Yields the messages in a `.wandb` file, up to one that is incomplete after a kill."""
    from wandb.proto.wandb_internal_pb2 import Record as Message

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = HEAD, b""
    while at + HEAD <= len(data):
        left = BLOCK - at % BLOCK
        if left < HEAD:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + HEAD])
        chunk = data[at + HEAD : at + HEAD + length]
        if kind == 0 or len(chunk) < length:
            return
        at += HEAD + length
        parts = chunk if kind in (1, 2) else parts + chunk
        if kind in (1, 4):
            message = Message()
            message.ParseFromString(parts)
            yield message


def wandb_rows(record: Path) -> list[dict[str, Any]]:
    """Returns the logged values, one dictionary per step."""
    rows = []
    for message in wandb_records(wandb_file(record)):
        if message.WhichOneof("record_type") == "history":
            items = message.history.item
            named = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
            rows.append(named)
    return rows


def wandb_run(record: Path) -> Any:
    """Returns the message of the run: id, group, name, tags, notes, config."""
    messages = wandb_records(wandb_file(record))
    return next(m.run for m in messages if m.WhichOneof("record_type") == "run")


def wandb_exit_code(record: Path) -> int | None:
    messages = wandb_records(wandb_file(record))
    codes = [m.exit.exit_code for m in messages if m.WhichOneof("record_type") == "exit"]
    return codes[-1] if codes else None


def tensorboard(record: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(record / "tensorboard"), size_guidance={"scalars": 0}).Reload()


def tensorboard_rows(record: Path) -> list[dict[str, Any]]:
    """Returns rows composed from TensorBoard's series, in the order of steps."""
    events = tensorboard(record)
    rows: dict[int, dict[str, Any]] = {}
    for tag in events.Tags()["scalars"]:
        steps = [event.step for event in events.Scalars(tag)]
        assert len(steps) == len(set(steps))
        for event in events.Scalars(tag):
            rows.setdefault(event.step, {"step": event.step})[tag] = event.value
    return [rows[step] for step in sorted(rows)]


def rounded(value: float) -> float:
    """Rounds to 32 bits, as TensorBoard does."""
    return struct.unpack("<f", struct.pack("<f", value))[0]


def same_as_metrics(path: Path) -> None:
    """Asserts that each step is logged once with the recorded values (rounded for TensorBoard)."""
    rows = Record.read(path).rows()
    assert rows
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert tensorboard_rows(path) == [
        {key: value if key == "step" else rounded(value) for key, value in row.items()}
        for row in rows
    ]
    logged = wandb_rows(path)
    assert [row["_step"] for row in logged] == steps
    for row, seen in zip(rows, logged, strict=True):
        assert {key: seen.get(key) for key in row if key != "step"} == {
            key: value for key, value in row.items() if key != "step"
        }
