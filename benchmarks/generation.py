"""Generation with the cache, beside `transformers`' `generate`, with the same weights.

    python benchmarks/generation.py [--quick]

Both continue the same prompts in float32, call by call in turn within one process. Greedy texts are
compared: they must be the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from machine import memory_bandwidth
from rows import Row, at_least, in_turn, table
from torch import Tensor
from twins import SIZES, gpt2, ours

from etude.generation.generate import generate
from etude.models.encoder_decoder import EncoderDecoder

SAMPLING = {"temperature": 0.8, "top_k": 50}


@dataclass(frozen=True)
class Size:
    """A model, and how long to look at it.

    Args:
        what: in words.
        build: their model, by its shape.
        shape: its arguments.
        target: the speed relative to `transformers` that is aimed at.
        new: tokens a call.
        repeats: calls of each side.
        beams: of a search that is measured too, for one prompt; 0 leaves it out.
    """

    what: str
    build: Callable[..., Any]
    shape: dict[str, int]
    target: float
    new: int
    repeats: int
    beams: int = 0


NANO = Size(
    "nano, 4 x 128",
    gpt2,
    {"layers": 4, "heads": 4, "dim": 128, "vocab_size": 107, "max_length": 1024},
    2.0,
    256,
    15,
)
GPT2 = Size("GPT-2, 12 x 768", *SIZES["GPT-2"], 1.5, 128, 3, beams=4)
SMOLLM2 = Size("SmolLM2-135M, 30 x 576", *SIZES["SmolLM2-135M"], 1.5, 128, 3, beams=4)
T5_SMALL = Size("T5-small, 6 + 6 x 512", *SIZES["T5-small"], 1.5, 128, 3, beams=4)
BEAM_TARGET = 1.3
NOTES = """\
At nano a step is mostly Python and calls of kernels that take microseconds. Ours has fewer of them:
parameters are found without `nn.Module.__getattr__`, dropout and the checks of each draw are left
out (`etude.generation.model_modes`), and the text is in memory that is allocated once. The rest is
what a hand-written loop over the same kernels costs, and a third more for the calls of modules.

At GPT-2 size and batch 1 each token reads all weights once, half a gigabyte in float32, and both
sides wait for the memory: a product with one row reads its matrix at 95 % of the memory's
bandwidth, so the weights alone take 24 of our 29 ms. Without a millisecond for anything else we
would be 1.45 times as fast as `transformers`; 1.5 takes fewer bytes, that is, another precision.
The same holds for SmolLM2-135M and T5-small, whose steps are more calls of smaller kernels.
At batch 8 the weights could be read once for all rows, but the float32 product that torch takes
from MKL needs two to three times as long for 3 to 15 rows as for 1 or 16; for matrices of
`etude.nn.linear.LARGE` weights and more, such as the output's, oneDNN's is the faster one and is
taken. Both sides run the same kernels for the rest (`benchmarks/products.py`). Packed weights would
give a tenth more (on an AMD EPYC a fifth of a product), at the cost of a second copy of the model.
Drawing from 50,257 tokens takes a random number for each of them, on both sides.

A beam search of one prompt is a batch of four. Its products are about two thirds of a step; on
AMD's CPUs they are computed transposed (`etude.nn.linear.transposed_linear`), which takes a
quarter to two fifths less time at four rows. Choosing among all continuations takes a millisecond.
When beams change places, only the keys and values since their last common token are moved
(`LayerCache.select`), and finished texts are gathered only in steps in which one ends. Prompts of a
batch whose search is done leave it, as soon as they are a quarter of it: `etude evaluate`'s targets
of 118 sources, by an encoder-decoder of 3.7 million parameters that had learnt to end them, took
3,366 rows of steps instead of 7,534, and 1.3 s of one thread instead of 2.2.
"""


def compare(
    size: Size, models: tuple[Any, Any], batch: int, greedy: bool, quick: bool, beams: int = 1
) -> Row:
    """One row: new tokens a second of ours over theirs.

    Raises:
        RuntimeError: the texts of a greedy choice or a search differ.
    """
    mine, peer = models
    new = size.new // (8 if quick else 1)
    vocabulary = size.shape["vocab_size"]
    prompt = torch.randint(vocabulary, (batch, 16), generator=torch.Generator().manual_seed(1))
    if beams > 1:
        how, settings = f"{beams} beams", {"beams": beams}
        also: Any = {"do_sample": False, "num_beams": beams}
    elif greedy:
        how, settings, also = "greedy", {"greedy": True}, {"do_sample": False}
    else:
        how, settings = "temperature 0.8, top-k 50", dict(SAMPLING)
        also = {"do_sample": True, **SAMPLING}

    def by_us() -> Tensor:
        if not isinstance(mine, EncoderDecoder):
            return generate(mine, prompt, max_new_tokens=new, **settings)
        with torch.inference_mode():
            reading = mine.reading(prompt)
        start = prompt.new_full((batch, 1), mine.start_token)
        return generate(reading, start, max_new_tokens=new, **settings)

    def by_them() -> Tensor:
        return peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            use_cache=True,
            **also,
        )

    if not torch.equal(by_us(), by_them()) and (greedy or beams > 1):
        raise RuntimeError(f"{size.what}, {how}: the texts differ")
    a, b, ratio = in_turn(
        lambda: timed(by_us), lambda: timed(by_them), 2 if quick else size.repeats
    )
    what = f"{size.what}, batch {batch}, {how}"
    each = [f"{1e3 * seconds / new:.2f} ms a step" for seconds in (a, b)]
    target = size.target if beams == 1 else BEAM_TARGET
    return at_least(target, what, each[0], f"transformers {each[1]}", ratio)


def many_samples(models: tuple[Any, Any], quick: bool) -> Row:
    """Eight continuations of one long prompt, which is read once."""
    mine, peer = models
    length, samples, new = 512, 8, 8 if quick else 32
    prompt = torch.randint(107, (1, length), generator=torch.Generator().manual_seed(1))

    def by_us() -> Tensor:
        return generate(mine, prompt, samples=samples, max_new_tokens=new, **SAMPLING)

    def by_them() -> Tensor:
        return peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            num_return_sequences=samples,
            max_new_tokens=new,
            use_cache=True,
            do_sample=True,
            **SAMPLING,
        )

    a, b, ratio = in_turn(lambda: timed(by_us), lambda: timed(by_them), 2 if quick else 9)
    what = f"nano, {samples} samples of one prompt of {length} tokens, {new} new tokens"
    return at_least(2.0, what, f"{1e3 * a:.0f} ms", f"transformers {1e3 * b:.0f} ms", ratio)


def share_of_bandwidth(model: Any, quick: bool) -> Row:
    """How much of the memory's bandwidth one row of GPT-2 uses, reading each weight once."""
    new = 8 if quick else 64
    prompt = torch.zeros(1, 1, dtype=torch.long)
    read = sum(p.nbytes for name, p in model.named_parameters() if name != "position.weight")
    seconds = statistics.median(
        timed(lambda: generate(model, prompt, max_new_tokens=new, greedy=True)) / new
        for _ in range(3)
    )
    there = memory_bandwidth()
    used = read / seconds
    what = "GPT-2, batch 1: share of the memory's bandwidth"
    rate, peak = (f"{value / 1e9:.1f} GB/s" for value in (used, there))
    return Row(what, rate, f"reading a large tensor {peak}", used / there, "", None)


def timed(call: Any) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about generation."""
    rows = []
    for size in (NANO, GPT2, SMOLLM2, T5_SMALL):
        torch.manual_seed(0)
        peer = size.build(**size.shape)
        models = ours(peer), peer
        for batch in (1, 8):
            rows += [compare(size, models, batch, greedy, quick) for greedy in (True, False)]
        if size.beams:
            rows.append(compare(size, models, 1, False, quick, size.beams))
        if size is NANO:
            rows.append(many_samples(models, quick))
        elif size is GPT2:
            rows.append(share_of_bandwidth(models[0], quick))
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
