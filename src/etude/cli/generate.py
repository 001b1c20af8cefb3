"""`etude generate`: text from a run."""

from __future__ import annotations

from etude.cli.words import DONE, parser_for, with_root
from etude.errors import Problem, RequestError


def generate(arguments: list[str]) -> int:
    parser = parser_for("generate", "Continues a prompt with the model of a run.")
    parser.add_argument("run", metavar="RUN")
    with_root(parser)
    parser.add_argument(
        "--prompt", default="", help="the text to continue; empty begins a document"
    )
    parser.add_argument("--samples", type=int, default=1, help="continuations (1)")
    parser.add_argument("--max-new-tokens", type=int, default=200, help="their length (200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="1 is the model's own (0.8)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest that make up p")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument("--seed", type=int, help="the same seed, the same text")
    parser.add_argument("--checkpoint", default="best", help="best, last, or a step (best)")
    parser.add_argument("--stream", action="store_true", help="show text as it comes")
    parser.add_argument("--trust", nargs="*", default=[], help="modules a foreign record may name")
    asked = parser.parse_args(arguments)
    if asked.seed is not None and not 0 <= asked.seed < 2**63:
        raise RequestError(Problem("--seed", "a whole number from 0 to 2**63 - 1", asked.seed))
    from etude.api import load_run

    model = load_run(asked.run, root=asked.root, trust=asked.trust).model(asked.checkpoint)
    stream = None
    if asked.stream:
        if asked.samples != 1:
            raise RequestError(Problem("--samples", "1 with --stream", asked.samples))

        def stream(piece: str) -> None:
            print(piece, end="", flush=True)

    texts = model.generate(
        [asked.prompt] if stream is None else asked.prompt,
        samples=asked.samples,
        max_new_tokens=asked.max_new_tokens,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        greedy=asked.greedy,
        seed=asked.seed,
        stream=stream,
    )
    if stream is not None:
        print()
    else:
        print(f"\n{'-' * 72}\n".join(texts))
    return DONE
