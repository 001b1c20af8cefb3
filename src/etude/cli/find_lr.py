"""`etude find-lr`: a learning rate range test."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.common import DONE, SIGNALLED, make_parser
from etude.errors import Interrupted

if TYPE_CHECKING:
    from etude.analysis.learning_rates import LearningRates

_ROWS = 20


def find_lr(arguments: list[str]) -> int:
    """Runs `etude find-lr` with its command-line arguments and returns the exit code."""
    parser = make_parser(
        "find-lr",
        "Find a learning rate with a range test (Smith, 2015): train the model of `etude train "
        "OVERRIDES` for some steps while the learning rate rises by a constant factor, and report "
        "the rate at which the loss falls fastest. The trained model is discarded. A figure and "
        "its numbers are saved under experiments/_lr/.",
    )
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for `etude train`")
    help_ = "learning rate of the first step (default: 1e-6)"
    parser.add_argument("--from", dest="lowest", type=float, default=1e-6, metavar="LR", help=help_)
    help_ = "learning rate of the last step (default: 1)"
    parser.add_argument("--to", dest="highest", type=float, default=1.0, metavar="LR", help=help_)
    help_ = "maximum number of steps (default: 100)"
    parser.add_argument("--steps", type=int, default=100, metavar="N", help=help_)
    parser.add_argument("--config-dir", metavar="DIR", help="folder with your own configs")
    args = parser.parse_intermixed_args(arguments)
    from etude.config.compose import compose
    from etude.records.storage import check_root

    config = compose(args.overrides, config_dir=args.config_dir)
    check_root(Path(config.run.root) / "_lr", unsafe=config.run.unsafe_storage)
    from etude.training.range_test import check_range  # imports torch

    check_range(args.lowest, args.highest, args.steps)
    from etude.api import find_learning_rate

    try:
        rates = find_learning_rate(
            config,
            lowest=args.lowest,
            highest=args.highest,
            steps=args.steps,
        )
    except Interrupted as error:
        print(f"etude: {error}; no file was written", file=sys.stderr)
        return SIGNALLED + error.signum
    _print_rates(rates)
    return DONE


def _print_rates(rates: LearningRates) -> None:
    from etude.records.text_tables import print_columns

    count = len(rates.rates)
    marks = {"steepest descent": rates.steepest, "minimum / 10": rates.tenth_of_minimum}
    nearest = {
        name: min(range(count), key=lambda n: abs(rates.rates[n] - rate))
        for name, rate in marks.items()
        if rate is not None
    }
    shown = sorted({*range(0, count, max(1, count // _ROWS)), count - 1, *nearest.values()})
    rows = [
        [
            f"{rates.rates[n]:.3g}",
            f"{rates.losses[n]:.4f}",
            f"{rates.smoothed[n]:.4f}",
            ", ".join(name for name, index in nearest.items() if index == n),
        ]
        for n in shown
    ]
    print_columns(["rate", "loss", "smoothed", ""], rows)
    print()
    for name, rate in marks.items():
        if rate is not None:
            print(f"  {name:18}optimizer.lr={rate:.2g}")
    print(f"  {'config':18}optimizer.lr={rates.base:.2g}")
    for note in rates.notes:
        print(f"  {note}")
    for file in ("lr.png", "lr.json"):
        print(f"  {rates.folder / file}")
