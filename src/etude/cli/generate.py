"""`etude generate`: generates text with a run or with released weights."""

from __future__ import annotations

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from etude.cli.common import (
    DONE,
    RUN,
    add_checkpoint,
    add_root,
    add_trust,
    make_parser,
    name_arguments,
)
from etude.console import raw_stdout
from etude.errors import Checks, Problem, RequestError
from etude.generation.generation_config import GenerationConfig

_RULE = "-" * 72


def generate(arguments: list[str]) -> int:
    """Runs `etude generate` with its command-line arguments and returns the exit code."""
    args = _parser().parse_args(arguments)
    if args.temperature is None:
        args.temperature = 1.0 if args.beams > 1 or args.greedy else 0.8
    prompts = _check_prompts(args)
    model = _load_model(args)
    options: dict[str, Any] = {
        **asdict(_config(args)),
        "stop": args.stop,
        "forbidden": args.forbidden,
        "seed": args.seed,
    }
    if args.stream:
        model.generate(prompts[0], stream=_print_piece, **options)
        print(file=raw_stdout())
    else:
        model.generate(prompts, ready=_Printer(), **options)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "generate", "Generate text with the model of a run, or with released weights."
    )
    help_ = f"{RUN} (which selects the latest finished run of this name)"
    parser.add_argument("run", metavar="RUN", nargs="?", help=help_)
    help_ = "use released weights instead of a run: a Hugging Face Hub id, a folder or a file"
    parser.add_argument("--pretrained", metavar="SOURCE", help=help_)
    add_root(parser)
    help_ = "text to continue; repeatable (default: start a new document)"
    parser.add_argument("--prompt", metavar="TEXT", action="append", help=help_)
    parser.add_argument("--prompt-file", metavar="FILE", help="file with one prompt per line")
    help_ = "number of texts per prompt (default: 1)"
    parser.add_argument("--samples", metavar="N", type=int, default=1, help=help_)
    help_ = "maximum number of generated tokens per text (default: 200)"
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=200, help=help_)
    help_ = "minimum number of generated tokens per text (default: 0)"
    parser.add_argument("--min-new-tokens", metavar="N", type=int, default=0, help=help_)
    sampling = parser.add_argument_group("sampling")
    help_ = "divide the logits by this number (default: 0.8, or 1 with --beams or --greedy)"
    sampling.add_argument("--temperature", metavar="X", type=float, help=help_)
    help_ = "sample from the K most probable tokens"
    sampling.add_argument("--top-k", metavar="K", type=int, help=help_)
    help_ = (
        "sample from the smallest set of tokens with a total probability of at least P (nucleus "
        "sampling)"
    )
    sampling.add_argument("--top-p", metavar="P", type=float, help=help_)
    help_ = "sample from the tokens at least P times as probable as the most probable one"
    sampling.add_argument("--min-p", metavar="P", type=float, help=help_)
    help_ = "select the most probable token at each step"
    sampling.add_argument("--greedy", action="store_true", help=help_)
    help_ = "random seed; the same seed gives the same text (default: a random one)"
    sampling.add_argument("--seed", metavar="N", type=int, help=help_)
    search = parser.add_argument_group("beam search")
    help_ = "number of beams; 1 disables beam search (default: 1)"
    search.add_argument("--beams", metavar="N", type=int, default=1, help=help_)
    help_ = "divide a text's log-probability by length^X; above 0 favours long texts (default: 1)"
    search.add_argument("--length-penalty", metavar="X", type=float, default=1.0, help=help_)
    help_ = "stop the beam search of a prompt as soon as N texts are finished (N from --beams)"
    search.add_argument("--early-stopping", action="store_true", help=help_)
    constraints = parser.add_argument_group("constraints")
    help_ = "above 1: make tokens that have already occurred less probable (default: 1)"
    constraints.add_argument(
        "--repetition-penalty", metavar="X", type=float, default=1.0, help=help_
    )
    help_ = "generate no sequence of N tokens twice; 0 allows all repetitions (default: 0)"
    constraints.add_argument("--no-repeat-ngram", metavar="N", type=int, default=0, help=help_)
    help_ = "end a text where this string appears; repeatable"
    constraints.add_argument("--stop", metavar="TEXT", action="append", default=[], help=help_)
    help_ = "never generate this word, in upper or lower case; repeatable"
    constraints.add_argument(
        "--forbid", dest="forbidden", metavar="WORD", action="append", default=[], help=help_
    )
    add_checkpoint(parser)
    parser.add_argument("--stream", action="store_true", help="print tokens as they are generated")
    add_trust(parser)
    return parser


def _config(args: argparse.Namespace) -> GenerationConfig:
    names = [field.name for field in fields(GenerationConfig)]
    return GenerationConfig(**{name: getattr(args, name) for name in names})


def _check_prompts(args: argparse.Namespace) -> list[str]:
    """Checks all options of `etude generate`, and returns the prompts.

    The prompts are the values of `--prompt` or the lines of `--prompt-file`; without these options,
    there is one empty prompt. Called before the model is loaded.

    Raises:
        RequestError: options are invalid; the exception contains all problems.
    """
    checks = Checks()
    if args.run is None and args.pretrained is None:
        hint = (
            "to use released weights, add --pretrained SOURCE: a Hugging Face Hub id, a folder or "
        )
        hint += "a file"
        checks.problems.append(Problem("RUN", "a run to load", hint=hint))
    elif args.run is not None and args.pretrained is not None:
        expected = "no value together with RUN"
        checks.that(False, "--pretrained", args.pretrained, expected, f"RUN is {args.run}")
    with checks.collecting():
        _config(args)
    seed = args.seed
    is_valid = seed is None or 0 <= seed < 2**63
    checks.that(is_valid, "--seed", seed, "an integer from 0 to 2**63 - 1")
    checks.that(all(args.stop), "--stop", "", "a text that is not empty")
    checks.that(all(args.forbidden), "--forbid", "", "a word")
    prompts: list[str] = args.prompt or [""]
    if args.prompt_file is not None:
        first = args.prompt[0] if args.prompt else None
        checks.that(first is None, "--prompt", first, "no value together with --prompt-file")
        prompts = _read_prompts(Path(args.prompt_file), checks)
    if args.stream:
        checks.that(args.samples == 1, "--samples", args.samples, "1 with --stream")
        checks.that(args.beams == 1, "--beams", args.beams, "1 with --stream")
        where = "--prompt" if args.prompt_file is None else "--prompt-file"
        value = args.prompt_file or f"{len(prompts)} prompts"
        checks.that(len(prompts) == 1, where, value, "one prompt with --stream")
    if checks.problems:
        raise RequestError(checks.problems)
    return prompts


def _read_prompts(path: Path, checks: Checks) -> list[str]:
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        checks.that(False, "--prompt-file", str(path), "a text file in UTF-8", reason)
        return [""]
    # Other line separators (U+2028, form feed) belong to the prompt.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    lines = lines if lines[-1] else lines[:-1]
    expected = "a file with one prompt per line"
    checks.that(bool(lines), "--prompt-file", str(path), expected, "the file is empty")
    return lines


def _load_model(args: argparse.Namespace) -> Any:
    model: Any
    hint: str | None
    if args.pretrained is None:
        from etude.api import load_run

        run = load_run(args.run, root=args.root, trust=args.trust)
        where, named = "RUN", args.run
        has_labels = run.summary.get("data", {}).get("labels")
        command = f"to predict labels with this run, use `etude predict {args.run}`"
        hint = command if has_labels else None
        model = run.model(args.which)
    else:
        import etude

        name_arguments({"source": "--pretrained"})
        where, named, hint = "--pretrained", args.pretrained, None
        model = etude.load_pretrained(args.pretrained)
    if not model.writes:
        expected = "a model that generates text (a decoder or an encoder-decoder)"
        raise RequestError(Problem(where, expected, named, hint))
    return model


def _print_piece(piece: str) -> None:
    print(piece, end="", flush=True, file=raw_stdout())


class _Printer:
    """Function that prints generated texts, with a line of dashes between them."""

    def __init__(self) -> None:
        self.first = True

    def __call__(self, texts: list[str]) -> None:
        for text in texts:
            print(text if self.first else f"{_RULE}\n{text}", flush=True, file=raw_stdout())
            self.first = False
