"""One run from its config to its record: check, look up, prepare, claim, train, finish."""

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

from etude.config.checks import Checked
from etude.config.compose import plain_yaml
from etude.config.flat import flat_config
from etude.console import NOTICES
from etude.errors import Interrupted, RequestError, RunFailed, described
from etude.loggers.base import ViewedRun
from etude.loggers.views import Views
from etude.optim.schedules import Schedule, falls
from etude.records import fingerprints, provenance
from etude.records.integrity import CONFIG, OVERRIDES, TOKENIZER, WRITTEN_ONCE, is_hashed
from etude.records.metrics import rows
from etude.records.record import FORMAT, Record, label_of
from etude.records.signature import group, signature
from etude.records.storage import check_root
from etude.training.build import Parts, build_parts, check_all
from etude.training.checkpoints import tensor_bytes
from etude.training.initial import Initial
from etude.training.memory import keeping_memory
from etude.training.model import build_model, model_of, stated_vocabulary, unused_rows
from etude.training.place import (
    cache_folder,
    claimed,
    logging_to,
    room_for_checkpoints,
)
from etude.training.process import as_in_a_fresh_process, shared_threads
from etude.training.resume import resume_point
from etude.training.room import check_room
from etude.training.signals import StopSignals
from etude.training.starts import (
    extension_hashes,
    report_machine,
    report_other_runs,
    report_source,
)
from etude.training.state import Outcome, ended, folder_of, outcome_of
from etude.training.throughput import (
    compute_dtype,
    device_name,
    flops_per_token,
    machine_peak,
)
from etude.training.watch import watcher

if TYPE_CHECKING:
    from etude.tasks.base import Task
    from etude.training.assemble import Assembly

log = logging.getLogger("etude")
notices = logging.getLogger(NOTICES)

Epilogue = Callable[[Record, "Task", Any], None]


def train(
    config: DictConfig, epilogue: Epilogue | None = None, checked: Checked | None = None
) -> Outcome:
    """Trains the run that `config` describes, or what is left of it.

    Args:
        config: composed; see `etude.compose`.
        epilogue: called with the finished run while it is still held, what was trained, and the
            data: samples, figures.
        checked: the config, if it was checked.

    Raises:
        RequestError: the config, the data or a path is wrong, or this process trains already;
            nothing is left behind.
        RunHeld: another process trains this very run.
        RunFailed: training failed or diverged; the record says how.
        Interrupted: a signal came; the state is saved.
    """
    with as_in_a_fresh_process("etude.train"), keeping_memory():
        return _train(check_all(config) if checked is None else checked, epilogue)


def _train(checked: Checked, epilogue: Epilogue | None) -> Outcome:
    parts = build_parts(checked)
    whole = signature(checked.identity)
    folder = folder_of(checked)
    parts.data.check()
    fingerprint = partial(_fingerprint, checked, parts.data)
    done = outcome_of(checked, ended(checked, folder, fingerprint))
    if done is not None:
        return done
    parts.trainer.check_machine()
    check_room(checked, parts)
    check_root(folder, unsafe=checked.run.unsafe_storage)
    parts.data.prepare(cache_folder(checked))
    check_room(checked, parts, parts.data.tokenizer_.vocab_size)
    model = build_model(checked, parts.data.tokenizer_.vocab_size, len(parts.data.labels))
    if (unused := unused_rows(checked, parts.data.tokenizer_.vocab_size)) is not None:
        notices.warning("%s", unused)
    begun = bool(Record(folder).checkpoints())
    start = checked.config.init_from
    if start.source is not None and (not begun or start.lora.rank):
        Initial.fill(model, checked.config.init_from, Path(checked.run.root))
    room_for_checkpoints(folder, tensor_bytes(list(model.parameters())))
    with claimed(folder, wait=checked.run.wait, force=checked.run.force) as record:
        # By whoever held it a moment ago.
        done = outcome_of(checked, ended(checked, folder, fingerprint))
        if done is not None:
            return done
        views = Views(parts.loggers)
        with (
            logging_to(record.path / "log.txt", checked.mask),
            shared_threads(parts.trainer.processes),
        ):
            try:
                return _train_claimed(checked, parts, model, record, whole, epilogue, views)
            except BaseException as error:
                # A signal outside of training raises what is no Exception.
                if not isinstance(error, Exception) and record.info.get("status") == "running":
                    record.update(status="interrupted")
                raise
            finally:
                views.finish(record.info.get("status", "failed"))


def _fingerprint(checked: Checked, data: Any) -> str:
    """Of the data, remembered where that can be."""
    found: str = data.fingerprint()
    files = None if checked.config.extensions else data.files_read()
    if files is not None:
        fingerprints.remember(cache_folder(checked), checked.identity["data"], found, files)
    return found


def _train_claimed(
    checked: Checked,
    parts: Parts,
    model: Any,
    record: Record,
    whole: str,
    epilogue: Epilogue | None,
    views: Views,
) -> Outcome:
    from etude.training.assemble import assemble
    from etude.training.followers import accompanied
    from etude.training.loop import Diverged, Paused

    data, settings = parts.data, parts.trainer
    total = settings.total_steps(data.steps_per_epoch)
    point = resume_point(record)
    for folder, why in point.passed_over:
        log.warning("%s %s; the run goes back to the checkpoint before", folder.name, why)
    checkpoint, step = point.checkpoint, point.step
    stop_at = checked.run.stop_at_step
    if checked.config.init_from.source is not None and step == 0 and record.checkpoints():
        Initial.fill(model, checked.config.init_from, Path(checked.run.root))  # all are damaged
    if stop_at is not None and stop_at <= step < total:
        record.update(status="paused")
        log.info("paused before, at step %d of %d: %s", step, total, record.path)
        return Outcome("paused", record, reused=True)
    assembly = assemble(checked, parts, model, record, step=step)
    loop, trainer = assembly.loop, assembly.trainer
    intervals = {"every": loop.log_interval, "validated": loop.val_interval}
    machine = {**_measure(checked, parts, assembly), "rows": intervals}
    _begin(record, checked, data, model, whole, total, step, machine)
    watcher().began(record.path)
    views.about(_viewed(record, checked))
    loop.views = views
    if step:
        log.info("continues from step %d of %d: %s", step, total, record.path)
    else:
        log.info(
            "%s, %s, %d steps: %s",
            checked.name,
            _counted(model),
            total,
            record.path,
        )
    misfit = parts.schedule.misfit(total) if isinstance(parts.schedule, Schedule) else None
    if misfit is not None:
        log.warning("schedule: %s", misfit)
    if getattr(parts.optimizer, "averages", False) and falls(parts.schedule, total):
        log.warning(
            "schedule: the rate falls, and the optimizer averages the weights, which is to take "
            "the place of that; schedule=constant warms up and stays"
        )
    try:
        try:
            loop.signals.install()
            with (
                _unwrapped(loop.signals),
                accompanied(checked, assembly, step=step, checkpoint=checkpoint, data=data),
            ):
                assembly.fit(data, checkpoint)
        finally:
            loop.close()
        if assembly.task.average is not None:
            assembly.task.average.put()
        if epilogue is not None:
            model.cpu().eval()
            _finish(epilogue, record, assembly.task, data)
            views.results(record.path, trainer.global_step)
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
        raise RunFailed(f"diverged: {error} ({record.path})", "diverged", record.path) from error
    except RequestError:
        record.update(status="failed")
        raise
    except Exception as error:
        status = "oom" if is_out_of_memory(error) else "failed"
        trace = checked.mask.text(traceback.format_exc())
        log.debug("%s", trace)
        message = _failure(status, error, record)
        try:
            said = checked.mask.text(f"{type(error).__name__}: {error}")
            record.update(status=status, error=said, traceback=trace)
        except OSError as reason:  # the folder is gone, or the disk is full
            message += f"; and the record could not be updated: {reason}"
        raise RunFailed(message, status, record.path) from error
    last = deque(rows(record.metrics.path), maxlen=1)
    synced = record.metrics.sync()
    record.update(
        status="finished",
        finished=provenance.now(),
        step=trainer.global_step,
        tokens=loop.tokens,
        seconds=round(loop.seconds, 2),
        final={key: value for row in last for key, value in row.items() if _is_result(key)},
        best=loop.best,
        metrics_sha256=synced["sha256"],
    )
    return Outcome("finished", record)


@contextmanager
def _unwrapped(signals: StopSignals) -> Iterator[None]:
    """Raises `Interrupted` where a library has made another error of it, or passed over it."""
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


def _finish(epilogue: Epilogue, record: Record, task: Task, data: Any) -> None:
    """The weights are done: what cannot be drawn or sampled is told, and fails nothing."""
    try:
        epilogue(record, task, data)
    except Interrupted:
        raise
    except Exception as error:
        log.debug("%s", traceback.format_exc())
        log.warning("no samples or figures: %s: %s", type(error).__name__, error)


def _is_result(key: str) -> bool:
    """Whether a key of a row is a metric of the model, and not of the machine."""
    return "/" in key and not key.startswith("perf/")


def _measure(checked: Checked, parts: Parts, assembly: Assembly) -> dict[str, Any]:
    """Tells the loop what a token costs and what the machine can; returns it for the record."""
    precision = parts.trainer.lightning["precision"]
    device = assembly.trainer.strategy.root_device
    vocabulary = stated_vocabulary(checked) or parts.data.tokenizer_.vocab_size
    model = checked.nodes["model"]
    throughput = assembly.loop.throughput
    throughput.flops_per_token = flops_per_token(
        lambda: model_of(checked, vocabulary),
        length=parts.data.sequence_length,
        identity=[model.canonical(), vocabulary],
        memory=None if checked.config.extensions else cache_folder(checked),
    )
    one = machine_peak(device, compute_dtype(precision), cache_folder(checked))
    throughput.peak = one * parts.trainer.processes
    return {
        "processes": assembly.trainer.world_size,
        "devices": [str(each) for each in assembly.devices],
        "device": device_name(device),
        "flops_per_token": throughput.flops_per_token,
        "matmul_peak": throughput.peak,
    }


def _begin(
    record: Record,
    checked: Checked,
    data: Any,
    model: Any,
    whole: str,
    total: int,
    step: int,
    machine: dict[str, Any],
) -> None:
    _write_once(record, checked, data)
    start = {**provenance.start(step), "threads": torch.get_num_threads(), **machine}
    if hashes := extension_hashes(checked):
        start["extensions"] = hashes
    if patches := provenance.patches(record.path, list(checked.config.extensions), checked.mask):
        start["patches"] = patches
    before = record.info.get("starts", [])
    if step and before:
        report_machine(before[-1], start)
        report_source(checked, before)
    elif not before:
        report_other_runs(record.path, checked)
    record.forget("error", "traceback")
    record.forget_checkpoints(after=step)
    record.update(
        format=FORMAT,
        name=checked.name,
        signature=whole,
        group=group(checked.identity),
        label=label_of(checked.run.overrides),
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
        config=flat_config(checked),
        starts=[*before, start],
    )


def _write_once(record: Record, checked: Checked, data: Any) -> None:
    """Writes what stays as it is from the first start on, if it is not there, and hashes it.

    What a start before the first entry in `run.json` left is written again: it may be of data that
    was changed since.
    """
    there = [name for name in WRITTEN_ONCE if record.info and (record.path / name).exists()]
    if TOKENIZER not in there:
        data.tokenizer_.save(record.path / TOKENIZER)
    if not {CONFIG, OVERRIDES} <= set(there):
        record.write_config(plain_yaml(checked.config), checked.run.overrides)
        there = [name for name in there if name == TOKENIZER]
    if record.info:
        for name in WRITTEN_ONCE:
            if name not in there:
                log.warning("%s was not there, and was written again", record.path / name)
    hashed = is_hashed(record.info)
    record.note_files(*(name for name in WRITTEN_ONCE if not (hashed and name in there)))


def _viewed(record: Record, checked: Checked) -> ViewedRun:
    """What loggers are told of the run."""
    info = record.info
    ours = ("run", "logger")  # where and how it is carried out
    return ViewedRun(
        path=record.path,
        name=info["name"],
        signature=record.path.name,
        group=info["group"],
        label=record.label,
        seed=info["seed"],
        tags=info["tags"],
        notes=info["notes"],
        config={key: value for key, value in checked.shown.items() if key not in ours},
        mask=checked.mask,
    )


def _counted(model: Any) -> str:
    """How many parameters a model has, and how many of them learn if not all do."""
    every = sum(p.numel() for p in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    told = f"{every:,} parameters"
    return told if learning == every else f"{told}, {learning:,} of which learn"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, in this process or in another rank."""
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
        or getattr(error, "out_of_memory", False)
    )


def _failure(status: str, error: Exception, record: Record) -> str:
    hint = "; a smaller trainer.micro_batch needs less" if status == "oom" else ""
    return f"{status}: {described(error)}{hint} (traceback in {record.path / 'log.txt'})"
