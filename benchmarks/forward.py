"""Forward and backward passes of the released shapes, beside `transformers`.

    python benchmarks/forward.py [--quick]

The same weights and tokens, float32, no dropout, pass by pass in turn within one process; outputs
are compared. How far a pass is from what the machine's matrix products allow, and what takes the
rest, is measured too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from rows import Row, at_least, in_turn, table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from twins import SIZES, ours

from etude.models.cost import Counter
from etude.models.encoder_decoder import EncoderDecoder
from etude.training.throughput import matmul_peak

B, T = 4, 256
NOTES = """\
B = 4 sequences of T = 256 tokens (T5: as many of the source), logits at every position, and for the
backward pass the mean cross-entropy of them all. The limit is the number of operations in matrix
products, by the speed of large square ones (at the head of this page); the shares are of the time
that torch's profiler sees in kernels. "Products" are those of the weights; attention's own are in
"attention".

Both sides run the same kernels for nine tenths of the time: products, fused attention, the loss.
So their ratio is about 1, and what is measured around it is the machine: in four runs GPT-2's
forward and backward pass stood between 0.89 and 1.01, though the profiler's least time of all
kernels was 3.5 s in ours and 3.6 s in theirs. Both use huge pages (`etude.huge_pages`).

The products reach 230 to 250 GFLOP/s each when nothing else runs, so little is lost in them. Of the
rest, attention with T5's learned bias has no fused backward pass on a CPU; the norm and the rotary
positions of SmolLM2 are a dozen small operations each; and logits over a large vocabulary are
written and read several times by the loss and its gradient.
"""
GROUPS: dict[str, tuple[str, ...]] = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::"),
    "attention": ("aten::_scaled_dot_product",),
    "loss": ("aten::_log_softmax", "aten::nll_loss"),
    "activation": ("aten::gelu", "aten::silu", "aten::relu", "aten::threshold"),
    "norms": ("aten::native_layer_norm", "aten::_fused_rms_norm", "aten::rms_norm"),
    "copies": ("aten::copy_", "aten::cat", "aten::clone"),
}
"""What the profiler's names belong to; all others are "the rest"."""

Pass = Callable[[], Tensor]


def passes(name: str, mine: Any, peer: Any, shape: dict[str, int]) -> tuple[Pass, Pass, Tensor]:
    """What gives our logits, and theirs, and the tokens that the loss asks for."""
    generator = torch.Generator().manual_seed(1)
    tokens, targets = (
        torch.randint(shape["vocab_size"], (B, T), generator=generator) for _ in range(2)
    )
    if isinstance(mine, EncoderDecoder):
        return (
            lambda: mine(tokens, targets),
            lambda: peer(input_ids=tokens, decoder_input_ids=targets, use_cache=False).logits,
            targets,
        )
    more = {} if name.startswith("BERT") else {"use_cache": False}
    return lambda: mine(tokens), lambda: peer(tokens, **more).logits, targets


def forward(call: Pass) -> float:
    """Seconds of a forward pass."""
    with torch.inference_mode():
        began = time.perf_counter()
        call()
        return time.perf_counter() - began


def both(model: Any, call: Pass, targets: Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    model.zero_grad(set_to_none=True)
    began = time.perf_counter()
    F.cross_entropy(call().flatten(0, 1), targets.flatten()).backward()
    return time.perf_counter() - began


def shares(step: Callable[[], object]) -> str:
    """What takes the time, largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    taken = dict.fromkeys([*GROUPS, "the rest"], 0.0)
    for event in found.key_averages():
        names = [group for group, starts in GROUPS.items() if event.key.startswith(starts)]
        taken[names[0] if names else "the rest"] += event.self_cpu_time_total
    total = sum(taken.values())
    ordered = sorted(taken.items(), key=lambda item: -item[1])
    return ", ".join(f"{group} {100 * time / total:.0f} %" for group, time in ordered)


def limit(what: str, seconds: float, operations: int, peak: float, step: Callable[[], Any]) -> Row:
    """How near a pass is to the products alone."""
    rate = operations / seconds
    told = f"{what}: share of the limit"
    mine, most = (f"{x / 1e9:.0f} GFLOP/s" for x in (rate, peak))
    return Row(told, mine, f"products {most}", rate / peak, "", None, shares(step))


def measure(quick: bool) -> list[Row]:
    """The rows of `docs/performance.md` about passes."""
    repeats = 2 if quick else 9
    rows = []
    for name, (build, shape) in SIZES.items():
        if quick:
            shape = {**shape, "layers": 2}
        torch.manual_seed(0)
        peer = build(**shape)
        mine = ours(peer)
        a, b, targets = passes(name, mine, peer, shape)
        with torch.inference_mode():
            torch.testing.assert_close(a(), b(), atol=1e-4, rtol=1e-4)
        with Counter() as counter:
            loss = F.cross_entropy(a().flatten(0, 1), targets.flatten())
            operations = counter.flops
            loss.backward()
        mean = partial(both, mine, a, targets), partial(both, peer, b, targets)
        for kind, (by_us, by_them), count in (
            ("forward", (partial(forward, a), partial(forward, b)), operations),
            ("forward and backward", mean, counter.flops),
        ):
            by_us(), by_them()
            x, y, ratio = in_turn(by_us, by_them, repeats)
            peak = statistics.median(
                matmul_peak("cpu", torch.float32, torch.get_num_threads()) for _ in range(5)
            )
            what = f"{name}, {kind}"
            each = f"{1e3 * x:.0f} ms", f"transformers {1e3 * y:.0f} ms"
            rows += [at_least(1.0, what, *each, ratio), limit(what, x, count, peak, by_us)]
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    print(table(measure(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
