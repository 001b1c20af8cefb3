"""`etude convert`: weights in and out of Hugging Face's form, with the measured difference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.words import CHECKPOINTS, DONE, parser_for, with_root, with_trust
from etude.errors import Problem, RequestError

if TYPE_CHECKING:
    from argparse import Namespace

    from etude.interop.converting import Source


def convert(arguments: list[str]) -> int:
    parser = parser_for(
        "convert",
        "Writes a model as a folder that `transformers` opens, and prints how far the logits of "
        "source and folder are from ours. Past the tolerance nothing is written.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder, .safetensors or .gguf file, hub id, or RUN"
    )
    parser.add_argument("dest", metavar="DEST", help="the folder to write")
    with_root(parser)
    parser.add_argument("--dtype", help="float32, bfloat16, float16, float64 (the source's)")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="the largest difference of a logit (1e-4)"
    )
    parser.add_argument("--force", action="store_true", help="replace a model's folder at DEST")
    parser.add_argument("--revision", help="of a hub id: a branch, tag or commit")
    parser.add_argument("--checkpoint", default="best", help=f"of a RUN: {CHECKPOINTS}")
    help_ = "of a RUN with low-rank changes: write these alone, as `peft` reads them"
    parser.add_argument("--adapter", action="store_true", help=help_)
    with_trust(parser)
    asked = parser.parse_args(arguments)
    if not 0 < asked.tolerance < float("inf"):
        raise RequestError(Problem("--tolerance", "a positive number", asked.tolerance))
    from etude.interop import converting
    from etude.interop.released import dtype_of

    dtype = dtype_of(asked.dtype)
    destination = Path(asked.dest).expanduser()
    converting.check_destination(destination, force=asked.force)
    print(f"reading {asked.source}", flush=True)
    if asked.adapter:
        _write_adapter(asked, destination)
        print(f"written: {destination}")
        return DONE
    converting.convert(
        _source(asked),
        destination,
        dtype=dtype,
        tolerance=asked.tolerance,
        force=asked.force,
        tell=lambda line: print(line, flush=True),
    )
    print(f"written: {destination}")
    return DONE


def _write_adapter(asked: Namespace, destination: Path) -> None:
    from etude.api import load_run
    from etude.interop import converting, tokenizers
    from etude.interop.peft import save_adapter
    from etude.training.model import lora_of

    run = load_run(asked.source, root=asked.root, trust=asked.trust)
    options = lora_of(run.checked)
    if options is None:
        expected = "a run with low-rank changes (init_from.lora.rank=...)"
        raise RequestError(Problem("RUN", expected, asked.source))
    module = run.model(asked.checkpoint, merged=False).module
    base = str(run.config.init_from.source)
    ending = run.checked.nodes["task"].constructor.transformers_ending
    reads = run.config.data.sequence_length
    save_adapter(module, destination, options, base=base, ending=ending, reads=reads)
    types = converting.has_types(module)
    tokenizers.write(destination, run.tokenizer(), max_length=module.max_length, types=types)
    if not Path(base).is_dir() or (Path(base) / "run.json").is_file():
        told = "its base is the run %s: `etude convert %s FOLDER` writes it for peft"
        print(told % (base, base), flush=True)


def _source(asked: Namespace) -> Source:
    """What lies at a path; else the run of that name; else what the hub has."""
    from etude.interop.converting import of_released, of_run
    from etude.interop.released import read
    from etude.records.registry import find_folders

    path = Path(asked.source).expanduser()
    no_run: list[Problem] = []
    if not path.exists() or (path / "run.json").is_file():
        try:
            find_folders(asked.source, Path(asked.root))
        except RequestError as error:
            no_run = error.problems if Path(asked.root).is_dir() else []
        else:
            from etude.api import load_run

            run = load_run(asked.source, root=asked.root, trust=asked.trust)
            task = run.checked.nodes["task"].constructor
            return of_run(
                str(run.path),
                run.model(asked.checkpoint).module,
                run.tokenizer(),
                labels=run.labels,
                ending=task.transformers_ending,
                fields=task.transformers_fields,
                reads=run.config.data.sequence_length,
            )
    try:
        return of_released(asked.source, read(asked.source, revision=asked.revision))
    except RequestError as error:
        raise RequestError([*error.problems, *no_run]) from error
