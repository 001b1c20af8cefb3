"""`etude reproduce`: papers whose claims are measured here."""

from __future__ import annotations

from pathlib import Path

from etude.cli.words import DONE, FAILED, parser_for, with_root
from etude.errors import Problem, RequestError


def reproduce(arguments: list[str]) -> int:
    parser = parser_for(
        "reproduce",
        "Measures a paper's claim here; without PAPER, lists what is ready. Runs that are finished "
        "are not trained again: the same command goes on where it was stopped.",
    )
    parser.add_argument("paper", metavar="PAPER", nargs="*")
    with_root(parser)
    parser.add_argument(
        "--jobs", default="auto", metavar="N", help="at once (auto: one, or one a GPU)"
    )
    parser.add_argument("--check", action="store_true", help="judge the runs that are there")
    help_ = "runs as short as can be, to see that all fits together; claims nothing"
    parser.add_argument("--smoke", action="store_true", help=help_)
    help_ = "where the files lie that some papers need, such as tinyshakespeare.txt (here)"
    parser.add_argument("--files", default=".", metavar="DIR", help=help_)
    help_ = "a folder of your own configs: its papers and experiments come before the shipped ones"
    parser.add_argument("--config-dir", metavar="DIR", help=help_)
    asked = parser.parse_args(arguments)
    problems = []
    number = asked.jobs.isascii() and asked.jobs.isdecimal()
    if asked.jobs != "auto" and not (number and int(asked.jobs) > 0):
        problems.append(Problem("--jobs", "a positive whole number, or auto", asked.jobs))
    if asked.check and asked.smoke:
        problems.append(Problem("--check", "not beside --smoke, which claims nothing"))
    if not asked.paper and (asked.check or asked.smoke):
        problems.append(Problem("PAPER", "a paper or more beside --check or --smoke"))
    if problems:
        raise RequestError(problems)
    root = Path(asked.root)
    if asked.paper and not asked.check:
        from etude.records.storage import check_root

        check_root(root / "_papers")
    from etude.papers import claims, runs
    from etude.papers import reproduce as papers

    own = None if asked.config_dir is None else Path(asked.config_dir).absolute()
    if not asked.paper:
        papers.print_papers(root, own)
        return DONE
    jobs = asked.jobs if asked.jobs == "auto" else int(asked.jobs)
    files = Path(asked.files)
    for paper in asked.paper:  # what is wrong is refused before anything is measured
        loaded = claims.load(paper, own)
        claims.built(paper, loaded)
        if not asked.smoke:
            runs.paths_of(paper, loaded, files)
    if asked.smoke:
        matched = [papers.smoke(paper, root, jobs=jobs, config_dir=own) for paper in asked.paper]
    else:
        matched = [
            papers.reproduce(paper, root, jobs=jobs, check=asked.check, files=files, config_dir=own)
            for paper in asked.paper
        ]
    return DONE if all(matched) else FAILED
