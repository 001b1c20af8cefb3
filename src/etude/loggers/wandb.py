"""Weights & Biases logger: one W&B run for each run, in `<run folder>/wandb/`, offline by default.

The `wandb` library runs in a separate process (`wandb_process`), which receives the values to log
as JSON lines. Therefore the library's hooks, service process and environment settings don't affect
the run or other W&B runs of the same program, and the process can be killed if it hangs.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from etude.errors import Checks
from etude.loggers.base import Logger, Row, RunInfo
from etude.records.opening import make_subfolder

log = logging.getLogger("etude")

FOLDER = "wandb"
_LONGEST_NAME, _LONGEST_TAG = 128, 64  # characters that W&B's server accepts


class WandB(Logger):
    """Weights & Biases logger of metrics, samples, figures and the config.

    The id of the W&B run is the name of the run folder: the first 12 hexadecimal digits of a hash
    of the config, with the suffix `-2` for a second run of the same config. The group of the W&B
    run is an identifier shared by runs that differ only in the seed. The name of the W&B run is the
    list of overrides that distinguish the run from its experiment file.

    When a run is continued, all its rows are logged again, and earlier offline folders are deleted,
    so that each step is logged once. In online mode, W&B keeps the steps that were already
    uploaded.

    Args:
        project: W&B project.
        entity: W&B user or team; null uses the account's default.
        mode: `offline` writes files for `wandb sync` and doesn't use the network; `online` uploads
            during the run; `disabled` does nothing. The environment variable `WANDB_MODE` is
            ignored; with `offline`, so are all other `WANDB_*` variables.
        timeout: Seconds that the run waits for W&B after training.
    """

    def __init__(
        self,
        *,
        project: str = "etude",
        entity: str | None = None,
        mode: Literal["offline", "online", "disabled"] = "offline",
        timeout: float = 60.0,
    ) -> None:
        checks = Checks()
        checks.that(
            bool(project) and not set(project) & set("/\\#?%:"),
            "project",
            project,
            "a name without the characters / \\ # ? % :",
        )
        checks.positive(timeout=timeout)
        checks.done()
        self.project, self.entity, self.mode, self.patience = project, entity, mode, timeout
        self._process: subprocess.Popen[str] | None = None
        self._scratch = ""
        self._summary = ""

    def start(self, run: RunInfo, rows: Sequence[Row]) -> None:
        """Starts the W&B process and, for a resumed run, logs the rows so far."""
        if self.mode == "disabled":
            return
        folder = make_subfolder(run.path, FOLDER)
        earlier = sorted(folder.glob("offline-run-*"))
        self._scratch = tempfile.mkdtemp(prefix="etude-wandb-")
        self._process = subprocess.Popen(
            # -P: the script's folder contains a module `wandb` that is not W&B's
            [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=self._environment(),
            start_new_session=True,  # only the run handles Ctrl-C
        )
        self._send(self._settings(run))
        for row in rows:
            self._send({"row": row})
        self._send({"started": True})
        answer = self._receive()
        destination = answer["url"] or self._upload_instructions(run, Path(answer["folder"]))
        self._summary = f"wandb: {destination}"
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)

    def metrics(self, row: Row) -> None:
        """Logs a row of metrics at its step."""
        self._send({"row": row})

    def text(self, name: str, text: str, step: int) -> None:
        """Logs a text as an HTML page."""
        self._send({"text": {"name": name, "text": text, "step": step}})

    def figure(self, name: str, path: Path, step: int) -> None:
        """Logs an image."""
        self._send({"figure": {"name": name, "path": str(path), "step": step}})

    def finish(self, status: str) -> None:
        """Finishes the W&B run and waits for its process to end."""
        if self._process is None:
            return
        self._send({"finish": status})
        self._receive()
        self._process.wait()
        self._close()
        log.info("%s", self._summary)

    def abandon(self) -> None:
        """Kills the W&B process and the service process that it started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._close()

    def _environment(self) -> dict[str, str]:
        """Returns the environment of the W&B process.

        It is this process's environment without some variables: in offline mode, without all
        `WANDB_*` variables; in online mode, without `WANDB_MODE` and the variable with which W&B
        would use another process's service. `WANDB_ERROR_REPORTING` is set to `false`.
        """
        ours = {"WANDB_SERVICE", "WANDB_MODE"}
        return {
            key: value
            for key, value in os.environ.items()
            if not (key.startswith("WANDB_") if self.mode == "offline" else key in ours)
        } | {"WANDB_ERROR_REPORTING": "false"}

    def _settings(self, run: RunInfo) -> dict[str, Any]:
        hidden = [value for value in (self.entity, self.project) if run.mask.hides(value)]
        omitted = hidden if self.mode == "offline" else []  # they are passed to `wandb sync`
        return {
            "path": str(run.path.resolve()),
            "scratch": self._scratch,
            "mode": self.mode,
            "entity": None if self.entity in omitted else self.entity,
            "project": "etude" if self.project in omitted else self.project,
            "skip_transaction_log": bool(hidden),
            "id": run.signature.replace("~", "-"),
            "group": run.group,
            "name": (run.label or run.name)[:_LONGEST_NAME],
            "tags": [tag[:_LONGEST_TAG] for tag in run.tags],
            "notes": run.notes,
            "config": dict(run.config),
        }

    def _upload_instructions(self, run: RunInfo, folder: Path) -> str:
        named: dict[str, str | None] = {"--entity": self.entity, "--project": self.project}
        shown = (
            (option, run.mask.text(value or ""), value or "") for option, value in named.items()
        )
        options = "".join(f' {option} "{text}"' for option, text, value in shown if text != value)
        options = re.sub(r"\$\{oc\.env:(\w+)\}", r"$\1", options)  # shell syntax
        return f"offline; to upload, use `wandb sync{options} {run.path / FOLDER / folder.name}`"

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._receive()  # raises with the reason
            raise

    def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the W&B process ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def _close(self) -> None:
        assert self._process is not None
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]
        shutil.rmtree(self._scratch, ignore_errors=True)
