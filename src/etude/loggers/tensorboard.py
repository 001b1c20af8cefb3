"""TensorBoard logger: one event file in `<run folder>/tensorboard/`.

TensorBoard stores 32-bit floats: its values are those of `metrics.jsonl`, rounded.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from etude.loggers.base import Logger, Row, RunInfo
from etude.records.opening import FIGURE, make_subfolder, read_bytes

FOLDER = "tensorboard"
_CHANNELS = 4  # figures are RGBA images


class TensorBoard(Logger):
    """TensorBoard logger of metrics, samples, figures and the config.

    A continued run gets a new event file with all rows so far, so that no row is missing or
    duplicated after the process was killed. The file begins with a restart event at step 0 (as
    written by `SummaryWriter(purge_step=0)`), which makes TensorBoard discard the earlier files.
    The earlier files are deleted only at the end of the run, because TensorBoard stops if a file
    that it reads is deleted.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._writer: Any = None
        self._earlier: list[Path] = []

    def start(self, run: RunInfo, rows: Sequence[Row]) -> None:
        """Opens the event file and writes the config and, for a resumed run, all rows so far."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = make_subfolder(run.path, FOLDER)
        self._earlier = sorted(folder.glob("events.out.tfevents.*"))
        # TensorBoard reads the files of a folder in the order of their names.
        path = folder / f"events.out.tfevents.{time.time_ns()}"
        self._file = open(path, "xb")  # noqa: SIM115 (closed at the end)
        self._writer = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        restart = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=0, session_log=restart))
        self._text("config", _to_yaml(run.config), 0)
        now, done = time.time(), rows[-1].get("time", 0.0) if rows else 0.0
        for row in rows:  # wall times as if training had not paused
            self._scalars(row, now - done + row.get("time", done))
        self._flush()

    def metrics(self, row: Row) -> None:
        """Adds a row of metrics and flushes the event file."""
        self._scalars(row, time.time())
        self._flush()

    def text(self, name: str, text: str, step: int) -> None:
        """Adds a text, which TensorBoard shows verbatim."""
        self._text(name, text, step)
        self._flush()

    def figure(self, name: str, path: Path, step: int) -> None:
        """Adds a PNG image."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        png = read_bytes(path, FIGURE)
        width, height = struct.unpack(">II", png[16:24])  # of the PNG header
        image = Summary.Image(
            height=height, width=width, colorspace=_CHANNELS, encoded_image_string=png
        )
        self._event(Summary(value=[Summary.Value(tag=name, image=image)]), step, time.time())
        self._flush()

    def finish(self, status: str) -> None:
        """Closes the event file and deletes the event files of earlier starts."""
        self.abandon()
        for path in self._earlier:
            path.unlink()

    def abandon(self) -> None:
        """Closes the event file."""
        if self._file is not None:
            self._file.close()

    def _scalars(self, row: Row, when: float) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in row.items()
            if key != "step" and isinstance(value, int | float)
        ]
        self._event(Summary(value=values), row["step"], when)

    def _text(self, name: str, text: str, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        code_block = "\n".join(f"    {line}" for line in text.splitlines())  # Markdown
        tensor = TensorProto(
            dtype=DT_STRING,
            string_val=[code_block.encode()],
            tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
        )
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        value = Summary.Value(tag=name, metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor)
        self._event(Summary(value=[value]), step, time.time())

    def _event(self, summary: Any, step: int, when: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._write(Event(wall_time=when, step=step, summary=summary))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())

    def _flush(self) -> None:
        assert self._file is not None
        self._file.flush()


def _to_yaml(config: Mapping[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
