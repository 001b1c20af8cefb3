"""Gradients of Pre-LN and Post-LN Transformers at initialisation (Xiong et al. 2020, theorem 1).

The gradient of the last layer at initialisation determines whether training needs a warm-up. In a
model of width d with L layers, this gradient is of order d sqrt(ln d) for Post-LN, independent of
L, and of order d sqrt(ln d / L) for Pre-LN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from etude.analysis.curves import COLOURS, new_figure, style_axes
from etude.errors import Checks
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PostNormBlock, PreNormBlock
from etude.nn.feedforward import ReLU
from etude.nn.init import Xavier
from etude.nn.mask import Bidirectional
from etude.nn.norm import LayerNorm
from etude.nn.position import Learned
from etude.papers.claims import Reading
from etude.tasks.losses import cross_entropy
from etude.training.process import exclusive_fresh_settings

BLOCKS = {"pre": PreNormBlock, "post": PostNormBlock}


class LayerNorms:
    """Measurement of how the gradient of the second matrix of the last feed-forward layer depends
    on the depth L (number of layers), with Pre-LN and Post-LN, on random tokens.

    Measured values: `slope/pre` and `slope/post`, the slope of the logarithm of the gradient's norm
    over log(L), by least squares. Each of the two is the negative control of the other, a case in
    which the claim must not hold.

    Args:
        depths: at least two values of L.
        dim: width of the model.
        heads: number of attention heads.
        vocabulary, length, batch: vocabulary size V, sequence length T and batch size B of the
            random tokens and targets, which are integers below V of shape (B, T).

    Raises:
        InvalidArguments: there are fewer than two depths, or a size is not positive.
    """

    def __init__(
        self, *, depths: list[int], dim: int, heads: int, vocabulary: int, length: int, batch: int
    ) -> None:
        checks = Checks()
        valid = len(set(depths)) > 1 and min(depths) > 0
        checks.that(valid, "depths", depths, "at least two different positive depths")
        checks.positive(dim=dim, heads=heads, vocabulary=vocabulary, length=length, batch=batch)
        checks.done()
        self.depths = sorted(set(depths))
        self.dim, self.heads = dim, heads
        self.vocabulary, self.length, self.batch = vocabulary, length, batch

    @property
    def cells(self) -> set[str]:
        """Keys of the measured values, `slope/pre` and `slope/post`."""
        return {"slope/pre", "slope/post"}

    def measure(self, seeds: Sequence[int], figures: Path) -> dict[str, Reading]:
        """Returns a dict from each key in `cells` to its values, and draws `gradients.png`.

        Args:
            seeds: seeds; each is measured once.
            figures: existing folder for the figure.
        """
        norms = {
            name: np.array(
                [[self.norm(name, depth, seed) for depth in self.depths] for seed in seeds]
            )
            for name in BLOCKS
        }
        slopes = {
            name: [log_log_slope(self.depths, row) for row in rows] for name, rows in norms.items()
        }
        plot(self.depths, norms, figures / "gradients.png")
        return {
            "slope/pre": Reading(slopes["pre"], slopes["post"]),
            "slope/post": Reading(slopes["post"], slopes["pre"]),
        }

    def norm(self, name: str, depth: int, seed: int) -> float:
        """Returns the Frobenius norm of the gradient of a matrix at initialisation.

        The matrix is the second one of the last feed-forward layer. The loss is the mean over all
        positions.

        Args:
            name: `pre` or `post`.
            depth: L, the number of layers.
            seed: seed of weights, tokens and targets.
        """
        with exclusive_fresh_settings("etude reproduce"):
            return self._norm(name, depth, seed)

    def _norm(self, name: str, depth: int, seed: int) -> float:
        torch.manual_seed(seed)
        model = Decoder(
            vocab_size=self.vocabulary, layers=depth, heads=self.heads, dim=self.dim,
            max_length=self.length, attention=MultiHeadAttention, position=Learned, norm=LayerNorm,
            feedforward=ReLU, mask=Bidirectional, block=partial(BLOCKS[name]),
            tie_embeddings=False, initialise=Xavier(),
        )  # fmt: skip
        tokens, targets = torch.randint(self.vocabulary, (2, self.batch, self.length))
        (cross_entropy(model(tokens), targets) / targets.numel()).backward()
        last = model.blocks[-1].get_submodule("feedforward.down")
        assert isinstance(last, nn.Linear)
        assert last.weight.grad is not None
        return last.weight.grad.norm().item()


def log_log_slope(depths: Sequence[int], norms: Sequence[float] | np.ndarray) -> float:
    """Returns the slope of log(norms) over log(depths), by least squares."""
    return float(np.polyfit(np.log(depths), np.log(norms), 1)[0])


def plot(depths: Sequence[int], norms: dict[str, np.ndarray], path: Path) -> None:
    """Draws the gradient norms over the depth: seeds as thin lines, their geometric mean as a thick
    line, and for Pre-LN a dotted line with the theorem's slope through the first mean.

    Args:
        depths: numbers of layers.
        norms: gradient norms of `pre` (Pre-LN) and `post` (Post-LN), arrays of shape (number of
            seeds, number of depths).
        path: path of the PNG file.
    """
    figure = new_figure(5.4, 3.8)
    axes = figure.subplots()
    titles = {"pre": "Pre-LN", "post": "Post-LN"}
    for (name, rows), color in zip(norms.items(), COLOURS, strict=False):
        for row in rows:
            axes.plot(depths, row, color=color, linewidth=0.7, alpha=0.45)
        mean = np.exp(np.log(rows).mean(axis=0))
        axes.plot(depths, mean, "o-", color=color, markersize=4, linewidth=1.8, label=titles[name])
        if name == "pre":
            expected = mean[0] * (np.array(depths) / depths[0]) ** -0.5
            axes.plot(depths, expected, ":", color="black", label=r"$\propto L^{-1/2}$, theorem 1")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(depths, labels=[str(depth) for depth in depths])
    axes.set_xlabel("layers L")
    axes.set_ylabel("gradient norm in the last layer")
    style_axes(axes)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
