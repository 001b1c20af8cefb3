"""TensorBoard and W&B contain the rows of `metrics.jsonl`, even after failures."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from read_views import (
    BOTH,
    same_as_metrics,
    tensorboard,
    wandb_exit_code,
    wandb_file,
    wandb_rows,
    wandb_run,
)

from etude.records.record import Record


def test_every_value_of_every_row_is_there(viewed: Path) -> None:
    rows = Record.read(viewed).rows()
    assert len(rows) == 10
    assert {"train/loss", "train/grad_norm", "lr", "tokens", "time"} <= set(rows[0])
    assert "val/loss" in rows[-1]
    same_as_metrics(viewed)


def test_wandb_knows_the_run_by_our_names(viewed: Path) -> None:
    run, info = wandb_run(viewed), Record.read(viewed).info
    assert run.run_id == viewed.name == info["signature"][:12]
    assert run.run_group == info["group"]
    assert run.display_name == info["label"][:128]  # W&B takes no more
    assert "dim=8" in run.display_name
    assert (list(run.tags), run.notes, run.project) == (["one", "two"], "a note", "etude")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["model"]["dim"] == 8
    assert "run" not in config
    assert wandb_exit_code(viewed) == 0


def test_samples_and_figures_are_there(viewed: Path) -> None:
    sample = next((viewed / "samples").glob("*.txt")).read_text()
    png = (viewed / "figures" / "loss.png").read_bytes()

    events = tensorboard(viewed)
    (image,) = events.Images("figures/loss")
    assert (image.encoded_image_string, image.step) == (png, 10)
    assert struct.pack(">II", image.width, image.height) == png[16:24]
    (text,) = events.Tensors("samples")
    shown = text.tensor_proto.string_val[0].decode()
    assert [line[4:] for line in shown.splitlines()] == sample.splitlines()
    (config,) = events.Tensors("config")
    assert b"dim: 8" in config.tensor_proto.string_val[0]

    last = wandb_rows(viewed)[-1]
    files = wandb_file(viewed).parent / "files"
    assert (files / last["figures/loss/path"]).read_bytes() == png
    assert sample.split()[0] in (files / last["samples/path"]).read_text()


def test_nothing_else_is_kept_of_wandb(viewed: Path) -> None:
    """W&B's logs contain paths, its metadata the command line and the user name."""
    (folder,) = (viewed / "wandb").iterdir()
    assert {path.name for path in folder.iterdir()} == {"files", wandb_file(viewed).name}
    assert {path.name for path in (folder / "files").iterdir()} == {"media"}


def test_the_logger_is_no_part_of_the_runs_name(viewed: Path) -> None:
    info = Record.read(viewed).info
    assert "logger" not in info["label"]
    assert OmegaConf.load(viewed / "config.yaml").logger.wandb.mode == "offline"


class Broken(Exception):
    """Error raised by the test."""


def test_after_a_failure_each_step_is_there_once(
    etude: Any, corpus: Path, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run fails after logging rows 6 and 7, continues from step 5 and logs them again."""
    from etude.tasks.causal_lm import CausalLM

    whole = CausalLM.training_step
    monkeypatch.setattr(CausalLM, "training_step", failing_at(7, whole))
    words = tiny(corpus, tmp_path / "root", "trainer.log_every_n_steps=1", "run.samples=0", BOTH)
    assert etude("train", *words).code == 1
    (path,) = (tmp_path / "root" / "tiny").iterdir()
    record = Record.read(path)
    assert record.status == "failed"
    assert [row["step"] for row in record.rows()] == [1, 2, 3, 4, 5, 6, 7]
    assert wandb_exit_code(path) == 1
    same_as_metrics(path)

    monkeypatch.setattr(CausalLM, "training_step", whole)
    assert etude("train", *words).code == 0
    assert len(Record.read(path).info["starts"]) == 2
    assert [row["step"] for row in Record.read(path).rows()] == list(range(1, 11))
    same_as_metrics(path)
    assert wandb_exit_code(path) == 0


def failing_at(step: int, whole: Callable[..., Any]) -> Callable[..., Any]:
    def training_step(self: Any, *arguments: Any) -> Any:
        if self.trainer.global_step == step:
            raise Broken
        return whole(self, *arguments)

    return training_step
