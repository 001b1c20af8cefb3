"""Selection of loggers: none, one or several, on the command line and in an experiment file."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.config.checks import check
from etude.config.compose import compose
from etude.loggers.base import Logger
from etude.records.signature import signature
from etude.training.build import build_parts

DEBUG = "experiment=debug"
NAME = signature(check(compose([DEBUG])).identity)


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ([], []),
        (["logger=none"], []),
        (["logger=wandb"], ["wandb"]),
        (["logger=[tensorboard,wandb]"], ["tensorboard", "wandb"]),
        (["logger=[wandb,tensorboard]", "logger.wandb.project=mine"], ["wandb", "tensorboard"]),
    ],
)
def test_on_the_command_line(typed: list[str], names: list[str]) -> None:
    checked = check(compose([DEBUG, *typed]))
    assert signature(checked.identity) == NAME
    loggers = build_parts(checked).loggers
    assert list(loggers) == names
    assert all(isinstance(logger, Logger) for logger in loggers.values())


def test_in_an_experiment_file(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - debug\n"
        "  - override /logger: [tensorboard, wandb]\n"
        "logger: {wandb: {project: mine, timeout: 5}}\n"
    )
    checked = check(compose(["experiment=mine"], config_dir=tmp_path))
    assert signature(checked.identity) == NAME
    loggers = build_parts(checked).loggers
    assert list(loggers) == ["tensorboard", "wandb"]
    assert (loggers["wandb"].project, loggers["wandb"].patience) == ("mine", 5.0)  # type: ignore[attr-defined]
