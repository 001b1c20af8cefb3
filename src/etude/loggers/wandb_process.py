"""Script of the process that logs a W&B run. It imports no other module of Étude.

It reads the JSON lines that `etude.loggers.wandb` sends and answers with JSON lines: an object with
the keys `folder` and `url` once the W&B run has started and all rows of a continued run are logged;
an empty object when the W&B run is finished; an object with the key `error`, a message, after an
error. If the training process dies, the input ends, and the script finishes the W&B run as failed.
"""

from __future__ import annotations

import html
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

_SUCCESSFUL = ("finished", "paused")


def main() -> None:
    """Logs one run to W&B.

    The first JSON line on standard input contains the settings of the W&B run, such as `project`
    and `mode`. Every other line is an object with one key: `row`, `text` or `figure`, an item to
    log; `started`, once, after the earlier rows of a continued run; or `finish`, the status of the
    run, at the end.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run ends this process
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # other output goes to standard error
    settings = json.loads(sys.stdin.readline())
    try:
        _serve(settings, sys.stdin, answers)
    except BaseException as error:  # W&B also raises SystemExit
        _answer(answers, {"error": _describe(error)})
        raise
    finally:
        shutil.rmtree(settings["scratch"], ignore_errors=True)


def _serve(settings: dict[str, Any], messages: IO[str], answers: IO[str]) -> None:
    if settings["mode"] == "offline":  # ignore the user's W&B settings and folders
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            os.environ[name] = settings["scratch"]
    logging.disable(logging.CRITICAL)  # W&B's log contains paths and the config
    run = _start(settings)
    logged_steps = run.step if run.resumed else 0  # steps on W&B's server
    status = "interrupted"
    for message in _parse_messages(messages):
        if "started" in message:  # all rows so far are logged
            _answer(answers, {"folder": str(Path(run.dir).parent), "url": run.url})
        if "finish" in message:
            status = message["finish"]
            break
        _log(run, message, logged_steps)
    run.summary["status"] = status
    folder = Path(run.dir).parent
    run.finish(exit_code=0 if status in _SUCCESSFUL else 1)
    import wandb

    wandb.teardown()
    for leftover in ("logs", "tmp"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    _answer(answers, {})


def _start(settings: dict[str, Any]) -> Any:
    import wandb

    online = settings["mode"] == "online"
    return wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        dir=settings["path"],
        id=settings["id"],
        group=settings["group"],
        name=settings["name"],
        tags=settings["tags"],
        notes=settings["notes"],
        config=settings["config"],
        mode=settings["mode"],
        resume="allow" if online else None,
        settings=wandb.Settings(
            # The run folder has code, commit, machine and log; W&B's would be of this process.
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_disable_viewer=not online,
            x_save_requirements=False,
            x_skip_transaction_log=online and settings["skip_transaction_log"],
            silent=True,
            symlink=False,
        ),
    )


def _log(run: Any, message: dict[str, Any], logged_steps: int) -> None:
    import wandb

    if "row" in message:
        row = message["row"]
        values = {k: v for k, v in row.items() if k != "step" and v is not None}
        if row["step"] >= logged_steps:
            run.log(values, step=row["step"])
    elif "text" in message:
        entry = message["text"]
        page = f"<pre>{html.escape(entry['text'])}</pre>"
        run.log({entry["name"]: wandb.Html(page, inject=False)}, step=entry["step"])
    elif "figure" in message:
        entry = message["figure"]
        run.log({entry["name"]: wandb.Image(entry["path"])}, step=entry["step"])


def _parse_messages(messages: IO[str]) -> Iterator[dict[str, Any]]:
    for line in messages:
        if not line.endswith("\n"):  # incomplete: the training process ended
            return
        yield json.loads(line)


def _answer(answers: IO[str], message: dict[str, Any]) -> None:
    try:
        print(json.dumps(message), file=answers, flush=True)
    except BrokenPipeError:  # the training process ended
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _describe(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else repr(error)


if __name__ == "__main__":
    main()
