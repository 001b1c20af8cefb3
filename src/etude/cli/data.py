"""`etude data show`: what a run would read."""

from __future__ import annotations

from etude.cli.words import DONE, parser_for
from etude.errors import Problem, RequestError


def data(arguments: list[str]) -> int:
    parser = parser_for(
        "data",
        "`etude data show OVERRIDES`: splits, labels, lengths, repeated rows, examples and the "
        "first batch of the run that `etude train OVERRIDES` would be. Nothing is trained.",
    )
    parser.add_argument("action", metavar="show")
    parser.add_argument("overrides", metavar="OVERRIDE", nargs="*", help="as for `etude train`")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="to show (3)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own configs")
    asked = parser.parse_intermixed_args(arguments)
    if asked.action != "show":
        raise RequestError(Problem("etude data", "show", asked.action))
    if asked.examples < 1:
        raise RequestError(Problem("--examples", "a positive number", asked.examples))
    from etude.analysis.data_view import shown
    from etude.config.compose import compose
    from etude.training.build import build_parts, check_all
    from etude.training.place import cache_folder

    checked = check_all(compose(asked.overrides, config_dir=asked.config_dir))
    parts = build_parts(checked)
    parts.data.check()
    parts.data.prepare(cache_folder(checked))
    print()
    for line in shown(parts.data, examples=asked.examples, seed=checked.seed):
        print(line)
    return DONE
