"""`etude convert`: converts runs and released weights to the Hugging Face format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from etude.cli.common import CHECKPOINTS, DONE, add_root, add_trust, make_parser, name_arguments
from etude.errors import Problem, RequestError

if TYPE_CHECKING:
    from argparse import Namespace

    from etude.interop.export import ExportSource


def convert(arguments: list[str]) -> int:
    """Runs `etude convert` with its command-line arguments and returns the exit code."""
    parser = make_parser(
        "convert",
        "Convert a run or released weights to a folder that `transformers` can load. Prints the "
        "largest differences between the logits of the source, of the model in etude, and of the "
        "converted model. If a difference exceeds the tolerance, no folder is written.",
    )
    help_ = "a run, a Hugging Face Hub id, a model folder, or a .safetensors or .gguf file"
    parser.add_argument("source", metavar="SOURCE", help=help_)
    parser.add_argument("dest", metavar="DEST", help="folder to write")
    add_root(parser)
    help_ = "data type of the saved weights: float32, bfloat16, float16 or float64 (default: the"
    parser.add_argument("--dtype", help=f"{help_} source's)")
    help_ = "largest allowed absolute difference between the models' logits (default: 1e-4)"
    parser.add_argument("--tolerance", type=float, default=1e-4, help=help_)
    parser.add_argument("--force", action="store_true", help="replace an existing model at DEST")
    parser.add_argument("--revision", help="for a Hugging Face Hub id: branch, tag or commit")
    help_ = f"checkpoint of a run: {CHECKPOINTS}"
    parser.add_argument(
        "--checkpoint", dest="which", default="best", metavar="CHECKPOINT", help=help_
    )
    help_ = "for a run trained with LoRA: write only the adapter, in the format of `peft`"
    parser.add_argument("--adapter", action="store_true", help=help_)
    add_trust(parser)
    args = parser.parse_args(arguments)
    name_arguments({"run": "SOURCE"})
    if not 0 < args.tolerance < float("inf"):
        raise RequestError(Problem("--tolerance", "a positive number", args.tolerance))
    from etude.interop import export
    from etude.interop.released_model import parse_dtype

    dtype = parse_dtype(args.dtype)
    destination = Path(args.dest).expanduser()
    export.check_destination(destination, force=args.force)
    print(f"reading {args.source}", flush=True)
    if args.adapter:
        _write_adapter(args, destination)
        print(f"written: {destination}")
        return DONE
    export.export(
        _source(args),
        destination,
        dtype=dtype,
        tolerance=args.tolerance,
        force=args.force,
        tell=lambda line: print(line, flush=True),
    )
    print(f"written: {destination}")
    return DONE


def _write_adapter(args: Namespace, destination: Path) -> None:
    from etude.api import load_run
    from etude.interop import export, tokenizers
    from etude.interop.peft import save_adapter
    from etude.training.model import lora_options

    run = load_run(args.source, root=args.root, trust=args.trust)
    options = lora_options(run.checked)
    if options is None:
        hint = "this run has no init_from.lora.rank; to convert its model, omit --adapter"
        raise RequestError(Problem("SOURCE", "a run trained with LoRA", args.source, hint))
    module = run.model(args.which, merged=False).module
    base = str(run.config.init_from.source)
    ending = run.checked.nodes["task"].constructor.transformers_ending
    reads = run.config.data.sequence_length
    save_adapter(module, destination, options, base=base, ending=ending, reads=reads)
    types = export.has_types(module)
    tokenizers.write_tokenizer(
        destination, run.tokenizer(), max_length=module.max_length, types=types
    )
    if not Path(base).is_dir() or (Path(base) / "run.json").is_file():
        message = (
            "the adapter's base model is the run %s; to convert this run for peft, use "
            "`etude convert %s FOLDER`"
        )
        print(message % (base, base), flush=True)


def _source(args: Namespace) -> ExportSource:
    """Returns the model that the argument SOURCE of `etude convert` selects, with its tokenizer.

    If SOURCE is the path of released weights (a file or folder), they are loaded. Otherwise, SOURCE
    selects a run or, if no run matches, a repository on the Hugging Face Hub.
    """
    from etude.interop.export import source_from_released, source_from_run
    from etude.interop.released_model import load_released
    from etude.records.registry import find_folders

    path = Path(args.source).expanduser()
    no_run: list[Problem] = []
    if not path.exists() or (path / "run.json").is_file():
        try:
            find_folders(args.source, Path(args.root))
        except RequestError as error:
            no_run = error.problems if Path(args.root).is_dir() else []
        else:
            from etude.api import load_run

            run = load_run(args.source, root=args.root, trust=args.trust)
            task = run.checked.nodes["task"].constructor
            return source_from_run(
                str(run.path),
                run.model(args.which).module,
                run.tokenizer(),
                labels=run.labels,
                ending=task.transformers_ending,
                fields=task.transformers_fields,
                reads=run.config.data.sequence_length,
            )
    try:
        return source_from_released(args.source, load_released(args.source, revision=args.revision))
    except RequestError as error:
        raise RequestError([*error.problems, *no_run]) from error
