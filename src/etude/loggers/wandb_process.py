"""The process that holds a W&B run; a script of its own, which knows nothing else of Étude.

JSON lines come in (what `etude.loggers.wandb` sends) and go out: `{"folder", "url"}` when the run
is up and has the rows of earlier starts, `{}` when it is finished, `{"error"}` when it failed. When
the run that it views dies without a word, the input ends, and the W&B run is finished as failed.
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

_GOOD = ("finished", "paused")


def main() -> None:
    """Serves one run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the run says when it is over
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else prints
    stated = json.loads(sys.stdin.readline())
    try:
        _serve(stated, sys.stdin, answers)
    except BaseException as error:  # W&B raises SystemExit, too
        _answer(answers, {"error": _told(error)})
        raise
    finally:
        shutil.rmtree(stated["scratch"], ignore_errors=True)


def _serve(stated: dict[str, Any], messages: IO[str], answers: IO[str]) -> None:
    if stated["mode"] == "offline":  # neither the user's settings of W&B nor their folders
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            os.environ[name] = stated["scratch"]
    logging.disable(logging.CRITICAL)  # W&B's log of the process names paths and the config
    run = _start(stated)
    known = run.step if run.resumed else 0  # steps that W&B's server has
    status = "interrupted"
    for message in _parsed(messages):
        if "started" in message:  # and all rows so far are there
            _answer(answers, {"folder": str(Path(run.dir).parent), "url": run.url})
        if "finish" in message:
            status = message["finish"]
            break
        _log(run, message, known)
    run.summary["status"] = status
    folder = Path(run.dir).parent
    run.finish(exit_code=0 if status in _GOOD else 1)
    import wandb

    wandb.teardown()
    for leftover in ("logs", "tmp"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    _answer(answers, {})


def _start(stated: dict[str, Any]) -> Any:
    import wandb

    online = stated["mode"] == "online"
    return wandb.init(
        project=stated["project"],
        entity=stated["entity"],
        dir=stated["path"],
        id=stated["id"],
        group=stated["group"],
        name=stated["name"],
        tags=stated["tags"],
        notes=stated["notes"],
        config=stated["config"],
        mode=stated["mode"],
        resume="allow" if online else None,
        settings=wandb.Settings(
            # The record knows code, commit, machine and log; here they would be this process's.
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
            x_skip_transaction_log=online and stated["skip_transaction_log"],
            silent=True,
            symlink=False,
        ),
    )


def _log(run: Any, message: dict[str, Any], known: int) -> None:
    import wandb

    if "row" in message:
        row = message["row"]
        values = {k: v for k, v in row.items() if k != "step" and v is not None}
        if row["step"] >= known:
            run.log(values, step=row["step"])
    elif "text" in message:
        told = message["text"]
        page = f"<pre>{html.escape(told['text'])}</pre>"
        run.log({told["name"]: wandb.Html(page, inject=False)}, step=told["step"])
    elif "figure" in message:
        told = message["figure"]
        run.log({told["name"]: wandb.Image(told["path"])}, step=told["step"])


def _parsed(messages: IO[str]) -> Iterator[dict[str, Any]]:
    for line in messages:
        if not line.endswith("\n"):  # cut short: whoever wrote it is gone
            return
        yield json.loads(line)


def _answer(answers: IO[str], message: dict[str, Any]) -> None:
    try:
        print(json.dumps(message), file=answers, flush=True)
    except BrokenPipeError:  # the run is gone
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _told(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else repr(error)


if __name__ == "__main__":
    main()
