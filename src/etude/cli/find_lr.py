"""`etude find-lr`: how the loss goes while the learning rate rises."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.words import DONE, SIGNALLED, parser_for
from etude.errors import Interrupted, InvalidArguments, RequestError

if TYPE_CHECKING:
    from etude.analysis.learning_rates import LearningRates

_SHOWN = 20
_OPTIONS = {"lowest": "--from", "highest": "--to", "steps": "--steps"}


def find_lr(arguments: list[str]) -> int:
    parser = parser_for(
        "find-lr",
        "Trains the model of `etude train OVERRIDES` for some steps while the learning rate rises "
        "by the same factor each step, and throws it away; says at which rate the loss falls most. "
        "Leaves a figure and its numbers under experiments/_lr/, and no run.",
    )
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for `etude train`")
    help_ = "the first step's rate (1e-6)"
    parser.add_argument("--from", dest="lowest", type=float, default=1e-6, metavar="LR", help=help_)
    help_ = "the last step's (1)"
    parser.add_argument("--to", dest="highest", type=float, default=1.0, metavar="LR", help=help_)
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="at most (100)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configs")
    asked = parser.parse_intermixed_args(arguments)
    from etude.config.compose import compose
    from etude.records.storage import check_root

    config = compose(asked.overrides, config_dir=asked.config_dir)
    check_root(Path(config.run.root) / "_lr", unsafe=config.run.unsafe_storage)
    from etude.training.range_test import check_range  # imports torch

    try:
        check_range(asked.lowest, asked.highest, asked.steps)
    except InvalidArguments as error:
        named = [replace(p, where=_OPTIONS.get(p.where, p.where)) for p in error.problems]
        raise RequestError(named) from error
    from etude.api import find_learning_rate

    try:
        found = find_learning_rate(
            config,
            lowest=asked.lowest,
            highest=asked.highest,
            steps=asked.steps,
        )
    except Interrupted as error:
        print(f"etude: {error}; nothing was written", file=sys.stderr)
        return SIGNALLED + error.signum
    _show(found)
    return DONE


def _show(found: LearningRates) -> None:
    from etude.records.tables import print_columns

    count = len(found.rates)
    marks = {"steepest descent": found.steepest, "minimum / 10": found.tenth_of_minimum}
    nearest = {
        name: min(range(count), key=lambda n: abs(found.rates[n] - rate))
        for name, rate in marks.items()
        if rate is not None
    }
    shown = sorted({*range(0, count, max(1, count // _SHOWN)), count - 1, *nearest.values()})
    rows = [
        [
            f"{found.rates[n]:.3g}",
            f"{found.losses[n]:.4f}",
            f"{found.smoothed[n]:.4f}",
            ", ".join(name for name, place in nearest.items() if place == n),
        ]
        for n in shown
    ]
    print_columns(["rate", "loss", "smoothed", ""], rows)
    print()
    for name, rate in marks.items():
        if rate is not None:
            print(f"  {name:18}optimizer.lr={rate:.2g}")
    print(f"  {'stated':18}optimizer.lr={found.base:.2g}")
    for note in found.notes:
        print(f"  {note}")
    for file in ("lr.png", "lr.json"):
        print(f"  {found.folder / file}")
