"""One run from its config to its record: check, look up, prepare, claim, train, finish."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from etude.config.checks import Checked, check
from etude.config.compose import plain_yaml
from etude.errors import Interrupted, Problem, RequestError, RunFailed
from etude.models.language_model import LanguageModel
from etude.records import provenance
from etude.records.record import DONE, FORMAT, Record, label_of, run_folder
from etude.records.signature import group, signature
from etude.training.build import Parts, build_model, build_parts
from etude.training.checkpoints import verify
from etude.training.place import cache_folder, claimed, current_folder, logging_to, preflight
from etude.training.process import as_in_a_fresh_process

log = logging.getLogger("etude")

Epilogue = Callable[[Record, LanguageModel], None]


@dataclass
class Outcome:
    """How a request to train ended.

    Attributes:
        status: `finished` or `paused`.
        record: the run's record.
        reused: nothing was trained: the run had been finished before.
    """

    status: str
    record: Record
    reused: bool = False


def train(config: DictConfig, epilogue: Epilogue | None = None) -> Outcome:
    """Trains the run that `config` describes, or what is left of it.

    Args:
        config: composed; see `etude.compose`.
        epilogue: called with the finished run while it is still held: samples, figures.

    Raises:
        RequestError: the config, the data or a path is wrong; nothing is left behind.
        RunHeld: another process trains this very run.
        RunFailed: training failed or diverged; the record says how.
        Interrupted: a signal came; the state is saved.
    """
    with as_in_a_fresh_process():
        return _train(check(config), epilogue)


def _train(checked: Checked, epilogue: Epilogue | None) -> Outcome:
    parts = build_parts(checked)
    whole = signature(checked.identity)
    folder = current_folder(run_folder(Path(checked.run.root), checked.name, whole), checked)
    parts.data.check()
    done = finished_before(folder, checked, parts)
    if done is not None:
        return done
    preflight(folder)
    parts.data.prepare(cache_folder(checked))
    model = build_model(checked, parts.data.tokenizer_.vocab_size)
    with claimed(folder, wait=checked.run.wait) as record:
        done = finished_before(folder, checked, parts)  # by whoever held it a moment ago
        if done is not None:
            return done
        with logging_to(record.path / "log.txt"):
            return _train_claimed(checked, parts, model, record, whole, epilogue)


def _train_claimed(
    checked: Checked,
    parts: Parts,
    model: Any,
    record: Record,
    whole: str,
    epilogue: Epilogue | None,
) -> Outcome:
    from etude.training.loop import Diverged, Paused, RunLoop

    data, settings = parts.data, parts.trainer
    total = settings.total_steps(data.steps_per_epoch)
    checkpoint, step = _resume_point(record)
    stop_at = checked.run.stop_at_step
    if stop_at is not None and stop_at <= step < total:
        record.update(status="paused")
        log.info("paused before, at step %d of %d: %s", step, total, record.path)
        return Outcome("paused", record, reused=True)
    data.attach(
        seed=checked.seed,
        micro_batch=settings.micro_batch,
        total_steps=total,
        start_step=step,
    )
    loop = RunLoop(
        record=record,
        total_steps=total,
        val_interval=settings.validation_interval(total),
        log_interval=settings.log_every_n_steps,
        save_interval=checked.run.save_every,
        keep_every=checked.run.keep_every,
        stop_at_step=stop_at,
        tokens_per_step=data.tokens_per_step,
        watch_gradients=settings.lightning["precision"] != "16-mixed",
    )
    trainer = settings.build(
        # A run that was stopped at its end starts once more, for what was left undone there.
        total_steps=total if step < total else step + 1,
        callbacks=[loop, *parts.callbacks],
        folder=record.path,
    )
    if settings.lightning["precision"] == "64-true":
        model = model.double()  # before its weights are restored, or they are rounded
    task = parts.task(
        model=model,
        optimizer=parts.optimizer,
        schedule=parts.schedule,
        total_steps=total,
        seed=checked.seed,
        gradient_clip_val=settings.gradient_clip_val,
    )
    _begin(record, checked, data, model, whole, total, step)
    if step:
        log.info("continues from step %d of %d: %s", step, total, record.path)
    else:
        log.info(
            "%s, %s parameters, %d steps: %s",
            checked.name,
            f"{model.num_parameters():,}",
            total,
            record.path,
        )
    try:
        try:
            loop.signals.install()
            trainer.fit(task, datamodule=data, ckpt_path=checkpoint)
        finally:
            loop.close()
        if epilogue is not None:
            _finish(epilogue, record, LanguageModel(model.cpu().eval(), data.tokenizer_))
    except Paused as pause:
        record.update(status="paused")
        log.info("%s", pause)
        return Outcome("paused", record)
    except Interrupted as stop:
        log.debug("%s", stop)
        record.update(status="interrupted")
        raise
    except KeyboardInterrupt:
        record.update(status="interrupted")
        raise Interrupted(2) from None
    except Diverged as error:
        told = {"metric": error.metric, "step": error.step, "value": str(error.value)}
        record.update(status="diverged", diverged=told, finished=provenance.now())
        raise RunFailed(f"diverged: {error} ({record.path})") from error
    except RequestError:
        record.update(status="failed")
        raise
    except Exception as error:
        status = "oom" if _is_out_of_memory(error) else "failed"
        log.debug("%s", traceback.format_exc())
        message = _failure(status, error, record)
        try:
            record.update(status=status, error=f"{type(error).__name__}: {error}")
        except OSError as reason:  # the folder is gone, or the disk is full
            message += f"; and the record could not be updated: {reason}"
        raise RunFailed(message) from error
    rows = record.rows()
    record.update(
        status="finished",
        finished=provenance.now(),
        step=trainer.global_step,
        tokens=trainer.global_step * data.tokens_per_step,
        seconds=round(loop.seconds, 2),
        final={key: value for row in rows[-1:] for key, value in row.items() if "/" in key},
        best=loop.best,
    )
    return Outcome("finished", record)


def finished_before(folder: Path, checked: Checked, parts: Parts) -> Outcome | None:
    """The outcome of an earlier identical request, if it came to an end.

    Raises:
        RequestError: `run.on_existing=error`, or the data is not what it was.
        RunFailed: the run had diverged, which it would do again.
    """
    if not (folder / "run.json").exists():
        return None
    record = Record.read(folder)
    if checked.run.on_existing == "error":
        raise RequestError(
            Problem(
                "run.on_existing", "no such run yet", "error", f"there: {folder}, {record.status}"
            )
        )
    trained_on = record.info.get("data", {}).get("fingerprint")
    found = parts.data.content_fingerprint()
    if trained_on != found:
        raise RequestError(
            Problem(
                "data",
                f"the content that {folder} was trained on ({trained_on})",
                found,
                "the corpus changed; run.on_existing=again trains anew"
                if record.status in DONE
                else "the corpus changed; `etude runs list` shows the run, remove it to start anew",
            )
        )
    if record.status == "diverged":
        raise RunFailed(
            f"diverged before at step {record.info['diverged']['step']}, and would again: {folder}"
            " (run.on_existing=again tries all the same)"
        )
    if record.status != "finished":
        return None
    start = record.info["starts"][-1]
    now = {"étude": provenance.source_hash(), **_extension_hashes(checked)}
    then = {"étude": start["source"], **start.get("extensions", {})}
    changed = [name for name in now if now[name] != then.get(name)]
    differs = f"the source of {', '.join(changed)} differs now" if changed else "the same source"
    log.info(
        "finished before: %s (trained by commit %s, source %s; %s)",
        folder,
        start["commit"] or "unknown",
        start["source"],
        differs,
    )
    return Outcome("finished", record, reused=True)


def _finish(epilogue: Epilogue, record: Record, model: LanguageModel) -> None:
    """The weights are done: what cannot be drawn or sampled is told, and fails nothing."""
    try:
        epilogue(record, model)
    except Interrupted:
        raise
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        log.warning("no samples or figures: %s: %s", type(error).__name__, error)


def _resume_point(record: Record) -> tuple[Path | None, int]:
    """The latest checkpoint that is as it was written, and its step; None and 0 without one."""
    for step, folder in reversed(record.checkpoints()):
        try:
            verify(folder)
        except RequestError as error:
            log.warning("%s is damaged, going back to the one before: %s", folder.name, error)
        else:
            return folder, step
    return None, 0


def _begin(
    record: Record, checked: Checked, data: Any, model: Any, whole: str, total: int, step: int
) -> None:
    if not (record.path / "tokenizer.json").exists():
        data.tokenizer_.save(record.path / "tokenizer.json")
    if not (record.path / "config.yaml").exists():
        record.write_config(plain_yaml(checked.config), checked.run.overrides)
    start = {**provenance.start(step), "threads": torch.get_num_threads()}
    if hashes := _extension_hashes(checked):
        start["extensions"] = hashes
    before = record.info.get("starts", [])
    if step and before and before[-1].get("threads") != start["threads"]:
        log.warning(
            "%s threads now, %s before: sums are rounded differently from here on",
            start["threads"],
            before[-1].get("threads"),
        )
    record.info.pop("error", None)
    record.update(
        format=FORMAT,
        name=checked.name,
        signature=whole,
        group=group(checked.identity),
        label=label_of(checked.run.overrides),
        status="running",
        seed=checked.seed,
        parameters=model.num_parameters(),
        total_steps=total,
        step=step,
        data={
            "fingerprint": data.content_fingerprint(),
            "splits": {name: asdict(split) for name, split in data.meta.splits.items()},
        },
        tokenizer={"fingerprint": data.tokenizer_.fingerprint, "size": data.tokenizer_.vocab_size},
        tags=list(checked.run.tags),
        notes=checked.run.notes,
        starts=[*before, start],
    )


def _extension_hashes(checked: Checked) -> dict[str, str | None]:
    return {name: provenance.module_hash(name) for name in checked.config.extensions}


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _failure(status: str, error: Exception, record: Record) -> str:
    hint = "; a smaller trainer.micro_batch needs less" if status == "oom" else ""
    told = str(error).splitlines()[0] if str(error) else ""
    return (
        f"{status}: {type(error).__name__}: {told}{hint} (traceback in {record.path / 'log.txt'})"
    )
