"""`etude reproduce`: reproduces the claims of papers."""

from __future__ import annotations

from pathlib import Path

from etude.cli.common import DONE, FAILED, add_root, make_parser
from etude.errors import Problem, RequestError


def reproduce(arguments: list[str]) -> int:
    """Runs `etude reproduce` with its command-line arguments and returns the exit code.

    The command trains the runs of papers and compares their results with the papers' claims.
    Without a paper, it lists the available papers.
    """
    parser = make_parser(
        "reproduce",
        "Reproduce the claims of papers; without PAPER, list the available papers. Finished runs "
        "are reused: run the same command again to continue after an interruption.",
    )
    parser.add_argument("paper", metavar="PAPER", nargs="*", help="name of a paper")
    add_root(parser)
    help_ = "number of parallel jobs (default: auto, which is one per GPU, or one without a GPU)"
    parser.add_argument("--jobs", default="auto", metavar="N", help=help_)
    help_ = "check the claims on the existing runs, without training"
    parser.add_argument("--check", action="store_true", help=help_)
    help_ = "train very short runs to test the paper's configs; checks no claim"
    parser.add_argument("--smoke", action="store_true", help=help_)
    help_ = (
        "folder with the files that some papers need, such as tinyshakespeare.txt "
        "(default: the current folder)"
    )
    parser.add_argument("--files", default=".", metavar="DIR", help=help_)
    help_ = (
        "folder with your own configs; a paper or experiment in it replaces the one of the same "
        "name that is included in Étude"
    )
    parser.add_argument("--config-dir", metavar="DIR", help=help_)
    args = parser.parse_args(arguments)
    problems = []
    number = args.jobs.isascii() and args.jobs.isdecimal()
    if args.jobs != "auto" and not (number and int(args.jobs) > 0):
        problems.append(Problem("--jobs", "a positive integer or auto", args.jobs))
    if args.check and args.smoke:
        hint = "--smoke checks no claim"
        problems.append(Problem("--check", "only one of --check and --smoke", hint=hint))
    if not args.paper and (args.check or args.smoke):
        problems.append(Problem("PAPER", "at least one paper with --check or --smoke"))
    if problems:
        raise RequestError(problems)
    root = Path(args.root)
    if args.paper and not args.check:
        from etude.records.storage import check_root

        check_root(root / "_papers")
    from etude.papers import claims, runs
    from etude.papers import reproduction as papers

    own = None if args.config_dir is None else Path(args.config_dir).absolute()
    if not args.paper:
        papers.print_papers(root, own)
        return DONE
    jobs = args.jobs if args.jobs == "auto" else int(args.jobs)
    files = Path(args.files)
    for paper in args.paper:  # all papers are checked before the first one is run
        loaded = claims.load(paper, own)
        claims.build_measurement(paper, loaded)
        if not args.smoke:
            runs.find_files(paper, loaded, files)
    if args.smoke:
        matched = [papers.smoke(paper, root, jobs=jobs, config_dir=own) for paper in args.paper]
    else:
        matched = [
            papers.reproduce(paper, root, jobs=jobs, check=args.check, files=files, config_dir=own)
            for paper in args.paper
        ]
    return DONE if all(matched) else FAILED
