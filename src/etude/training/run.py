"""Trains one run: checks the config, prepares the data, locks the run's folder, and trains."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig

from etude.config.checks import CheckedConfig
from etude.config.compose import plain_yaml
from etude.config.flattening import flatten_config
from etude.console import NOTICES
from etude.counts import counted
from etude.errors import Interrupted, RequestError, RunFailed, summarize_exception
from etude.loggers.base import RunInfo
from etude.loggers.run_loggers import RunLoggers
from etude.optim.schedules import Schedule, falls
from etude.records import fingerprints, provenance
from etude.records.integrity import CONFIG, IMMUTABLE_FILES, OVERRIDES, TOKENIZER, is_hashed
from etude.records.metrics_file import iter_rows
from etude.records.record import FORMAT, Record, build_label
from etude.records.signature import group, signature
from etude.records.storage import check_root
from etude.training.build import Parts, build_parts, check_all
from etude.training.checkpoints import tensor_bytes
from etude.training.init_from import InitFromSource
from etude.training.malloc import retain_memory
from etude.training.memory_check import check_memory
from etude.training.model import (
    build_model,
    build_model_from_config,
    configured_vocabulary,
    unused_vocabulary_warning,
)
from etude.training.observer import current_observer
from etude.training.process import exclusive_fresh_settings, shared_threads
from etude.training.resume import resume_point
from etude.training.run_folder import (
    cache_folder,
    locked_record,
    log_to_file,
    room_for_checkpoints,
)
from etude.training.signals import StopSignals
from etude.training.start_reports import (
    extension_hashes,
    report_machine,
    report_other_runs,
    report_source,
)
from etude.training.state import Outcome, ended, outcome_of, run_folder_of
from etude.training.throughput import (
    compute_dtype,
    device_name,
    flops_per_token,
    machine_peak,
)
from etude.user_code import find_user_line

if TYPE_CHECKING:
    from etude.tasks.base import Task
    from etude.training.session import TrainingSession

log = logging.getLogger("etude")
notices = logging.getLogger(NOTICES)

AfterTraining = Callable[[Record, "Task", Any], None]


def train(
    config: DictConfig, epilogue: AfterTraining | None = None, checked: CheckedConfig | None = None
) -> Outcome:
    """Trains the run that `config` describes, or continues it.

    Args:
        config: Composed config; see `etude.compose`.
        epilogue: Function that writes samples and figures after training. Its arguments are the
            run's folder as a `Record` (still locked), the trained task and the data.
        checked: Result of checking `config`; None if the caller has not checked it.

    Raises:
        RequestError: The config, the data or a path is invalid, or this process already trains. No
            files are left behind.
        RunHeld: Another process trains this run.
        RunFailed: Training failed or diverged; `run.json` contains the reason.
        Interrupted: A signal stopped training; the state is saved.
    """
    with exclusive_fresh_settings("etude.train"), retain_memory():
        return _train(check_all(config) if checked is None else checked, epilogue)


def _train(checked: CheckedConfig, epilogue: AfterTraining | None) -> Outcome:
    parts = build_parts(checked, check_data=True)
    full_signature = signature(checked.identity)
    folder = run_folder_of(checked)
    fingerprint = partial(_fingerprint, checked, parts.data)
    done = outcome_of(checked, ended(checked, folder, fingerprint))
    if done is not None:
        return done
    parts.trainer.check_machine()
    check_memory(checked, parts)
    check_root(folder, unsafe=checked.run.unsafe_storage)
    parts.data.prepare(cache_folder(checked))
    check_memory(checked, parts, parts.data.tokenizer_.vocab_size)
    model = build_model(checked, parts.data.tokenizer_.vocab_size, len(parts.data.labels))
    if (unused := unused_vocabulary_warning(checked, parts.data.tokenizer_.vocab_size)) is not None:
        notices.warning("%s", unused)
    has_checkpoints = bool(Record(folder).checkpoints())
    start = checked.config.init_from
    if start.source is not None and (not has_checkpoints or start.lora.rank):
        InitFromSource.fill(model, checked.config.init_from, Path(checked.run.root))
    room_for_checkpoints(folder, tensor_bytes(list(model.parameters())))
    with locked_record(folder, wait=checked.run.wait, force=checked.run.force) as record:
        # Another process may have finished it while this one waited for the lock.
        done = outcome_of(checked, ended(checked, folder, fingerprint))
        if done is not None:
            return done
        loggers = RunLoggers(parts.loggers)
        with (
            log_to_file(record.path / "log.txt", checked.mask),
            shared_threads(parts.trainer.processes),
        ):
            try:
                return _train_claimed(
                    checked, parts, model, record, full_signature, epilogue, loggers
                )
            except BaseException as error:
                # A signal outside of training raises a BaseException.
                if not isinstance(error, Exception) and record.info.get("status") == "running":
                    record.update(status="interrupted")
                raise
            finally:
                loggers.finish(record.info.get("status", "failed"))


def _fingerprint(checked: CheckedConfig, data: Any) -> str:
    """Returns the data's fingerprint and stores it in the cache folder. Nothing is stored if the
    config uses extensions, or if it is unknown which files the data are read from.
    """
    fingerprint: str = data.fingerprint()
    files = None if checked.config.extensions else data.files_read()
    if files is not None:
        fingerprints.cache_fingerprint(
            cache_folder(checked), checked.identity["data"], fingerprint, files
        )
    return fingerprint


def _train_claimed(
    checked: CheckedConfig,
    parts: Parts,
    model: Any,
    record: Record,
    full_signature: str,
    epilogue: AfterTraining | None,
    loggers: RunLoggers,
) -> Outcome:
    from etude.training.loop import Diverged, Paused
    from etude.training.rank_processes import running_ranks
    from etude.training.session import build_session

    data, settings = parts.data, parts.trainer
    total = settings.total_steps(data.steps_per_epoch)
    point = resume_point(record)
    for folder, why in point.passed_over:
        log.warning("checkpoint %s %s; continuing from an earlier step", folder.name, why)
    checkpoint, step = point.checkpoint, point.step
    stop_at = checked.run.stop_at_step
    if checked.config.init_from.source is not None and step == 0 and record.checkpoints():
        InitFromSource.fill(
            model, checked.config.init_from, Path(checked.run.root)
        )  # none is valid
    if stop_at is not None and stop_at <= step < total:
        record.update(status="paused")
        log.info("already paused at step %d of %d: %s", step, total, record.path)
        return Outcome("paused", record, reused=True)
    session = build_session(checked, parts, model, record, step=step)
    loop, trainer = session.loop, session.trainer
    intervals = {"every": loop.log_interval, "validated": loop.val_interval}
    machine = {**_measure_throughput(checked, parts, session), "rows": intervals}
    _update_record(record, checked, data, model, full_signature, total, step, machine)
    current_observer().began(record.path)
    loggers.set_run(_describe_run(record, checked))
    loop.loggers = loggers
    if step:
        log.info("continues from step %d of %d: %s", step, total, record.path)
    else:
        log.info(
            "%s, %s, %s: %s",
            checked.name,
            _parameter_counts(model),
            counted(total, "step"),
            record.path,
        )
    if data.examples_per_epoch < data.examples_per_step:
        log.warning(
            "data.batch: a step of %s is larger than the training data (%s)",
            counted(data.examples_per_step, "example"),
            counted(round(data.examples_per_epoch), "example"),
        )
    warning = parts.schedule.misfit(total) if isinstance(parts.schedule, Schedule) else None
    if warning is not None:
        log.warning("schedule: %s", warning)
    if getattr(parts.optimizer, "averages", False) and falls(parts.schedule, total):
        log.warning(
            "schedule: the learning rate decays, but this optimizer averages the weights and needs "
            "no decay; set schedule=constant (warmup, then a constant rate)"
        )
    try:
        try:
            loop.signals.install()
            with (
                _raising_interrupted(loop.signals),
                running_ranks(checked, session, step=step, checkpoint=checkpoint, data=data),
            ):
                session.fit(data, checkpoint)
        finally:
            loop.close()
        if session.task.average is not None:
            session.task.average.put()
        if epilogue is not None:
            model.cpu().eval()
            _run_epilogue(epilogue, record, session.task, data)
            loggers.results(record.path, trainer.global_step)
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
        divergence = {"metric": error.metric, "step": error.step, "value": str(error.value)}
        record.update(status="diverged", diverged=divergence, finished=provenance.timestamp())
        advice = "try a lower optimizer.lr, or clip gradients with trainer.gradient_clip_val=1"
        message = f"diverged: {error} ({record.path}; {advice})"
        raise RunFailed(message, "diverged", record.path) from error
    except RequestError:
        record.update(status="failed")
        raise
    except Exception as error:
        status = "oom" if is_out_of_memory(error) else "failed"
        trace = checked.mask.text(traceback.format_exc())
        log.debug("%s", trace)
        message = _failure_message(status, error, record)
        try:
            masked = checked.mask.text(f"{type(error).__name__}: {error}")
            record.update(status=status, error=masked, traceback=trace)
        except OSError as reason:  # the folder is gone, or the disk is full
            message += f"; run.json could not be updated: {reason}"
        raise RunFailed(message, status, record.path) from error
    last = deque(iter_rows(record.metrics.path), maxlen=1)
    synced = record.metrics.sync()
    record.update(
        status="finished",
        finished=provenance.timestamp(),
        step=trainer.global_step,
        tokens=loop.tokens,
        seconds=round(loop.seconds, 2),
        final={key: value for row in last for key, value in row.items() if _is_model_metric(key)},
        best=loop.best,
        metrics_sha256=synced["sha256"],
    )
    return Outcome("finished", record)


@contextmanager
def _raising_interrupted(signals: StopSignals) -> Iterator[None]:
    """Context manager that raises `Interrupted` on exit if a signal has stopped training, even if a
    library has replaced or suppressed the exception.
    """
    try:
        yield
    except Interrupted:
        raise
    except BaseException as error:
        if signals.stopped is not None:
            raise Interrupted(signals.stopped) from error
        raise
    if signals.stopped is not None:
        raise Interrupted(signals.stopped)


def _run_epilogue(epilogue: AfterTraining, record: Record, task: Task, data: Any) -> None:
    """Writes samples and figures. Errors are logged and don't fail the run."""
    try:
        epilogue(record, task, data)
    except Interrupted:
        raise
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        log.warning("could not write samples or figures: %s: %s", type(error).__name__, error)


def _is_model_metric(key: str) -> bool:
    """Returns whether a key of a metrics row is a metric of the model, not of the machine."""
    return "/" in key and not key.startswith("perf/")


def _measure_throughput(
    checked: CheckedConfig, parts: Parts, session: TrainingSession
) -> dict[str, Any]:
    """Determines the FLOPs per token and the machine's peak speed, which the metrics `perf/*` need.

    Returns the entries of `run.json` that describe these two numbers and the devices.
    """
    precision = parts.trainer.lightning["precision"]
    device = session.trainer.strategy.root_device
    vocabulary = configured_vocabulary(checked) or parts.data.tokenizer_.vocab_size
    model = checked.nodes["model"]
    throughput = session.loop.throughput
    throughput.flops_per_token = flops_per_token(
        lambda: build_model_from_config(checked, vocabulary),
        length=parts.data.sequence_length,
        identity=[model.canonical(), vocabulary],
        memory=None if checked.config.extensions else cache_folder(checked),
    )
    device_peak = machine_peak(device, compute_dtype(precision), cache_folder(checked))
    throughput.peak = device_peak * parts.trainer.processes
    return {
        "processes": session.trainer.world_size,
        "devices": [str(each) for each in session.devices],
        "device": device_name(device),
        "flops_per_token": throughput.flops_per_token,
        "matmul_peak": throughput.peak,
    }


def _update_record(
    record: Record,
    checked: CheckedConfig,
    data: Any,
    model: Any,
    full_signature: str,
    total: int,
    step: int,
    machine: dict[str, Any],
) -> None:
    _write_fixed_files(record, checked, data)
    start = {**provenance.start_entry(step), "threads": torch.get_num_threads(), **machine}
    if hashes := extension_hashes(checked):
        start["extensions"] = hashes
    if patches := provenance.write_source_patches(
        record.path, list(checked.config.extensions), checked.mask
    ):
        start["patches"] = patches
    before = record.info.get("starts", [])
    if step and before:
        report_machine(before[-1], start)
        report_source(checked, before)
    elif not before:
        report_other_runs(record.path, checked)
    record.forget("error", "traceback")
    record.delete_checkpoint_hashes(after=step)
    record.update(
        format=FORMAT,
        name=checked.name,
        signature=full_signature,
        group=group(checked.identity),
        label=build_label(checked.run.overrides),
        status="running",
        seed=checked.seed,
        parameters=sum(p.numel() for p in model.parameters()),
        total_steps=total,
        step=step,
        data={
            "fingerprint": _fingerprint(checked, data),
            **data.origin(),
            **({"labels": data.labels} if data.labels else {}),
            "splits": {name: asdict(split) for name, split in data.meta.splits.items()},
        },
        tokenizer={"fingerprint": data.tokenizer_.fingerprint, "size": data.tokenizer_.vocab_size},
        tags=list(checked.shown["run"]["tags"]),
        notes=checked.shown["run"]["notes"],
        choices=dict(checked.run.choices),
        config=flatten_config(checked),
        starts=[*before, start],
    )


def _write_fixed_files(record: Record, checked: CheckedConfig, data: Any) -> None:
    """Writes the files of a run that don't change after the run's first start, and computes their
    hashes; the next update of `run.json` saves the hashes.

    They are `config.yaml`, `overrides.yaml` and `tokenizer.json`. Existing files are kept, except
    those of a start that ended before `run.json` was written: they are written again, because the
    data may have changed.
    """
    present = [name for name in IMMUTABLE_FILES if record.info and (record.path / name).exists()]
    if TOKENIZER not in present:
        data.tokenizer_.save(record.path / TOKENIZER)
    if not {CONFIG, OVERRIDES} <= set(present):
        record.write_config(plain_yaml(checked.config), checked.run.overrides)
        present = [name for name in present if name == TOKENIZER]
    if record.info:
        for name in IMMUTABLE_FILES:
            if name not in present:
                log.warning("%s was missing and has been written again", record.path / name)
    hashed = is_hashed(record.info)
    record.note_files(*(name for name in IMMUTABLE_FILES if not (hashed and name in present)))


def _describe_run(record: Record, checked: CheckedConfig) -> RunInfo:
    """Returns the run's name, signature, seed, config and other facts, as loggers need them."""
    info = record.info
    omitted = ("run", "logger")  # settings that don't affect the result
    return RunInfo(
        path=record.path,
        name=info["name"],
        signature=record.path.name,
        group=info["group"],
        label=record.label,
        seed=info["seed"],
        tags=info["tags"],
        notes=info["notes"],
        config={key: value for key, value in checked.shown.items() if key not in omitted},
        mask=checked.mask,
    )


def _parameter_counts(model: Any) -> str:
    """Returns a model's number of parameters as text and, if some are frozen, the number of
    trainable parameters.
    """
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = f"{total:,} parameters"
    return text if trainable == total else f"{text} ({trainable:,} trainable)"


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether `error` means that this process or another rank ran out of memory."""
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
        or getattr(error, "out_of_memory", False)
    )


def _failure_message(status: str, error: Exception, record: Record) -> str:
    hint = "; reduce trainer.micro_batch to use less memory" if status == "oom" else ""
    line = find_user_line(error)
    place = f"{line}; " if line is not None else ""
    log_file = record.path / "log.txt"
    return f"{status}: {summarize_exception(error)}{hint} ({place}traceback in {log_file})"
