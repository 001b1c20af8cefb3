"""Weights & Biases: one run a record, in `<record>/wandb/`, offline unless told otherwise.

The `wandb` library runs in a process of its own (`wandb_process`), which is told what to log line
by line. So its hooks, its service process and its settings from the environment do not reach the
run or other W&B runs of the same program, and when it hangs it can be ended.
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
from etude.loggers.base import Logger, Row, ViewedRun
from etude.records.opening import folder_in

log = logging.getLogger("etude")

FOLDER = "wandb"
_LONGEST_NAME, _LONGEST_TAG = 128, 64  # characters that W&B's server takes


class WandB(Logger):
    """Sends rows, samples, figures and the config to Weights & Biases.

    The W&B run's id is the signature (12 digits, `-2` behind it for a second run of one config), so
    that the same run is the same there; its group is that of the seeds, its name the label.

    A continued run is written anew from its first row and earlier offline folders are removed: each
    step is there once, whatever a kill lost. Online, W&B keeps the steps that it has.

    Args:
        project: W&B's project.
        entity: a user or team; null is the account's default.
        mode: `offline` writes files that `wandb sync` uploads, and nothing reaches a network;
            `online` uploads as the run goes; `disabled` does nothing. `$WANDB_MODE` and, offline,
            all other `WANDB_*` variables are ignored: the config says what happens.
        timeout: seconds that the run waits for W&B at its end, then leaves it behind.
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
            "a name without / \\ # ? % :",
        )
        checks.positive(timeout=timeout)
        checks.done()
        self.project, self.entity, self.mode, self.patience = project, entity, mode, timeout
        self._process: subprocess.Popen[str] | None = None
        self._scratch = ""
        self._told = ""

    def start(self, run: ViewedRun, rows: Sequence[Row]) -> None:
        """Starts the process and repeats the rows so far."""
        if self.mode == "disabled":
            return
        folder = folder_in(run.path, FOLDER)
        earlier = sorted(folder.glob("offline-run-*"))
        self._scratch = tempfile.mkdtemp(prefix="etude-wandb-")
        self._process = subprocess.Popen(
            # -P: the script's own folder has a `wandb` that is not W&B's
            [sys.executable, "-P", str(Path(__file__).with_name("wandb_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env=self._environment(),
            start_new_session=True,  # Ctrl-C on a terminal is the run's affair
        )
        self._send(self._settings(run))
        for row in rows:
            self._send({"row": row})
        self._send({"started": True})
        answer = self._receive()
        self._told = f"wandb: {answer['url'] or self._how_to_upload(run, Path(answer['folder']))}"
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)

    def metrics(self, row: Row) -> None:
        """Logs a row under its step."""
        self._send({"row": row})

    def text(self, name: str, text: str, step: int) -> None:
        """Logs a text as a page of its own."""
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
        log.info("%s", self._told)

    def abandon(self) -> None:
        """Ends the process, whatever it is doing; its service ends with it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._close()

    def _environment(self) -> dict[str, str]:
        """Offline nothing of the environment is W&B's business; its service is nobody else's."""
        ours = {"WANDB_SERVICE", "WANDB_MODE"}
        return {
            key: value
            for key, value in os.environ.items()
            if not (key.startswith("WANDB_") if self.mode == "offline" else key in ours)
        } | {"WANDB_ERROR_REPORTING": "false"}

    def _settings(self, run: ViewedRun) -> dict[str, Any]:
        hidden = [value for value in (self.entity, self.project) if run.mask.hides(value)]
        unsaid = hidden if self.mode == "offline" else []  # `wandb sync` is told them instead
        return {
            "path": str(run.path.resolve()),
            "scratch": self._scratch,
            "mode": self.mode,
            "entity": None if self.entity in unsaid else self.entity,
            "project": "etude" if self.project in unsaid else self.project,
            "skip_transaction_log": bool(hidden),
            "id": run.signature.replace("~", "-"),
            "group": run.group,
            "name": (run.label or run.name)[:_LONGEST_NAME],
            "tags": [tag[:_LONGEST_TAG] for tag in run.tags],
            "notes": run.notes,
            "config": dict(run.config),
        }

    def _how_to_upload(self, run: ViewedRun, folder: Path) -> str:
        named: dict[str, str | None] = {"--entity": self.entity, "--project": self.project}
        shown = (
            (option, run.mask.text(value or ""), value or "") for option, value in named.items()
        )
        options = "".join(f' {option} "{text}"' for option, text, value in shown if text != value)
        options = re.sub(r"\$\{oc\.env:(\w+)\}", r"$\1", options)  # as a shell writes it
        return f"offline, `wandb sync{options} {run.path / FOLDER / folder.name}` uploads it"

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._receive()  # says why it left
            raise

    def _receive(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended with exit code {self._process.wait()}")
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
