"""`etude generate`: text from a run, or from released weights."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from etude.cli.words import CHECKPOINTS, DONE, as_option, parser_for, with_root, with_trust
from etude.console import exact
from etude.errors import Checks, InvalidArguments, Problem, RequestError
from etude.generation.options import GenerationConfig

_RULE = "-" * 72


def generate(arguments: list[str]) -> int:
    asked = _parser().parse_args(arguments)
    if asked.temperature is None:
        asked.temperature = 1.0 if asked.beams > 1 or asked.greedy else 0.8
    prompts = _checked(asked)
    model = _model(asked)
    options: dict[str, Any] = {
        **asdict(_config(asked)),
        "stop": asked.stop,
        "forbidden": asked.forbid,
        "seed": asked.seed,
    }
    try:
        if asked.stream:
            model.generate(prompts[0], stream=_show, **options)
            print(file=exact())
        else:
            model.generate(prompts, ready=_Printer(), **options)
    except InvalidArguments as error:
        raise RequestError([_as_typed(problem) for problem in error.problems]) from error
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = parser_for(
        "generate", "Continues prompts with the model of a run, or with released weights."
    )
    parser.add_argument("run", metavar="RUN", nargs="?")
    parser.add_argument(
        "--pretrained", metavar="SOURCE", help="a hub id, a folder or a file instead of a run"
    )
    with_root(parser)
    help_ = "the text to continue, repeatable; left out, a document begins"
    parser.add_argument("--prompt", action="append", help=help_)
    parser.add_argument("--prompt-file", metavar="FILE", help="prompts, one a line")
    parser.add_argument("--samples", type=int, default=1, help="texts for each prompt (1)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="their length (200)")
    parser.add_argument("--min-new-tokens", type=int, default=0, help="no end before (0)")
    drawn = parser.add_argument_group("drawing")
    drawn.add_argument("--temperature", type=float, help="1 is the model's own (0.8)")
    drawn.add_argument("--top-k", type=int, help="draw from the k likeliest tokens")
    drawn.add_argument("--top-p", type=float, help="draw from the likeliest that make up p")
    drawn.add_argument("--min-p", type=float, help="draw from those p times as likely as the first")
    drawn.add_argument("--greedy", action="store_true", help="always the likeliest token")
    drawn.add_argument("--seed", type=int, help="the same seed, the same text")
    searched = parser.add_argument_group("beam search")
    searched.add_argument("--beams", type=int, default=1, help="continuations kept (1: no search)")
    searched.add_argument(
        "--length-penalty", type=float, default=1.0, help="above 0 favours long texts (1)"
    )
    searched.add_argument(
        "--early-stopping", action="store_true", help="end with as many texts as beams"
    )
    kept_out = parser.add_argument_group("what is not written")
    kept_out.add_argument(
        "--repetition-penalty", type=float, default=1.0, help="above 1 repeats less (1)"
    )
    kept_out.add_argument(
        "--no-repeat-ngram", metavar="N", type=int, default=0, help="no N tokens twice (0: off)"
    )
    kept_out.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="ends a text; repeatable"
    )
    kept_out.add_argument(
        "--forbid", metavar="WORD", action="append", default=[], help="in any case; repeatable"
    )
    parser.add_argument("--checkpoint", default="best", help=CHECKPOINTS)
    parser.add_argument("--stream", action="store_true", help="show text as it comes")
    with_trust(parser)
    return parser


def _config(asked: argparse.Namespace) -> GenerationConfig:
    names = [field.name for field in fields(GenerationConfig)]
    return GenerationConfig(**{name: getattr(asked, name) for name in names})


def _checked(asked: argparse.Namespace) -> list[str]:
    """The prompts.

    Raises:
        RequestError: with all that is wrong, before anything is loaded.
    """
    checks = Checks()
    if asked.run is None and asked.pretrained is None:
        hint = "or --pretrained with a hub id, a folder or a file"
        checks.problems.append(Problem("RUN", "a run to load", hint=hint))
    elif asked.run is not None and asked.pretrained is not None:
        checks.that(False, "--pretrained", asked.pretrained, f"nothing beside RUN = {asked.run}")
    with checks.collecting():
        _config(asked)
    seed = asked.seed
    sound = seed is None or 0 <= seed < 2**63
    checks.that(sound, "--seed", seed, "a whole number from 0 to 2**63 - 1")
    checks.that(all(asked.stop), "--stop", "", "some text")
    checks.that(all(asked.forbid), "--forbid", "", "a word")
    prompts: list[str] = asked.prompt or [""]
    if asked.prompt_file is not None:
        first = asked.prompt[0] if asked.prompt else None
        checks.that(first is None, "--prompt", first, "nothing beside --prompt-file")
        prompts = _lines(Path(asked.prompt_file), checks)
    if asked.stream:
        checks.that(asked.samples == 1, "--samples", asked.samples, "1 with --stream")
        checks.that(asked.beams == 1, "--beams", asked.beams, "1 with --stream")
        where = "--prompt" if asked.prompt_file is None else "--prompt-file"
        found = asked.prompt_file or f"{len(prompts)} of them"
        checks.that(len(prompts) == 1, where, found, "one prompt with --stream")
    if checks.problems:
        raise RequestError([_as_typed(problem) for problem in checks.problems])
    return prompts


def _lines(path: Path, checks: Checks) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        checks.that(False, "--prompt-file", str(path), "a text file in UTF-8", reason)
        return [""]
    # Other ends of a line (U+2028, form feed) belong to the prompt.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    lines = lines if lines[-1] else lines[:-1]
    checks.that(bool(lines), "--prompt-file", str(path), "a prompt a line; it is empty")
    return lines


def _as_typed(problem: Problem) -> Problem:
    """The problem under the option's name."""
    if problem.where == "forbidden":
        return replace(problem, where="--forbid")
    if problem.hint == "beams=4 searches":
        problem = replace(problem, hint="--beams 4 searches")
    return as_option(problem)


def _model(asked: argparse.Namespace) -> Any:

    model: Any
    hint: str | None
    if asked.pretrained is None:
        from etude.api import load_run

        run = load_run(asked.run, root=asked.root, trust=asked.trust)
        where, named = "RUN", asked.run
        speaks = run.summary.get("data", {}).get("labels")
        hint = f"etude predict {asked.run} says something of a text" if speaks else None
        model = run.model(asked.checkpoint)
    else:
        import etude

        where, named, hint = "--pretrained", asked.pretrained, None
        model = etude.load_pretrained(asked.pretrained)
    if not model.writes:
        expected = "a model that writes text, a decoder or an encoder-decoder"
        raise RequestError(Problem(where, expected, named, hint))
    return model


def _show(piece: str) -> None:
    print(piece, end="", flush=True, file=exact())


class _Printer:
    """Prints texts as they are done, with a rule between two."""

    def __init__(self) -> None:
        self.first = True

    def __call__(self, texts: list[str]) -> None:
        for text in texts:
            print(text if self.first else f"{_RULE}\n{text}", flush=True, file=exact())
            self.first = False
