"""A Transformer that maps numbers to numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from etude.activations.inspectable import InspectableWrapper, first_row
from etude.errors import Checks
from etude.models.body import Body
from etude.models.heads import logits
from etude.models.kinds import LayerKind
from etude.models.mup import check_initialise
from etude.nn.init import GPT2, Initialise
from etude.nn.parts import Part
from etude.nn.sites import site


class Regressor(Body):
    """Transformer for regression: a linear input layer, a decoder's position module and blocks, and
    a linear output layer that predicts one number per position.

    With GPT-2's modules this is the model of Garg et al. 2022 (arXiv:2208.01066, section 2 and
    appendix A.1).

    Args:
        inputs: I, number of input values at each position.
        layers, heads, dim, max_length, attention, position, norm, feedforward, mask, block,
            dropout, initialise, pattern, kinds: see `Decoder`.
        bias: whether projections, norms, and the input and output layer have a bias.
        head_dim, recompute: see `Body`.
        mup_base_dim: see `Body`. In muP the input layer is treated like an embedding, and the
            output layer like an output projection to logits.

    Raises:
        InvalidArguments: the sizes are inconsistent, or a module rejects its arguments.
    """

    def __init__(
        self,
        *,
        inputs: int,
        layers: int,
        heads: int,
        dim: int,
        max_length: int,
        attention: Part,
        position: Part,
        norm: Part,
        feedforward: Part,
        mask: Part,
        block: Part,
        dropout: float = 0.0,
        bias: bool = True,
        head_dim: int | None = None,
        recompute: bool = False,
        initialise: Initialise | None = None,
        mup_base_dim: int | None = None,
        pattern: list[str] | None = None,
        kinds: dict[str, LayerKind] | None = None,
    ) -> None:
        checks = Checks()
        checks.positive(inputs=inputs, dim=dim)
        checks.done()
        super().__init__(
            vocab_size=None, embedding=nn.Linear(inputs, dim, bias=bias),
            layers=layers, heads=heads, dim=dim, max_length=max_length,
            attention=attention, position=position, norm=norm, feedforward=feedforward,
            mask=mask, block=block, dropout=dropout, bias=bias, head_dim=head_dim,
            recompute=recompute, mup_base_dim=mup_base_dim, pattern=pattern, kinds=kinds,
        )  # fmt: skip
        check_initialise(self.mup, initialise)
        self.inputs = inputs
        self.logit_scale = 1.0 if self.mup is None else 1 / self.mup.ratio
        self.head = nn.Linear(dim, 1, bias=bias)
        (initialise or GPT2())(self, layers)

    def forward(self, numbers: Tensor) -> Tensor:
        """Maps numbers (B, T, I) to predictions (B, T).

        Raises:
            InvalidArguments: the sequence is longer than the position module supports.
        """
        x = self.hidden(numbers.to(self.embedding.weight.dtype))
        return site(self, "logits", logits(x, self.head, scale=self.logit_scale).squeeze(-1))

    @property
    def own_sites(self) -> dict[str, str]:
        return super().own_sites | {"logits": "B T"}


class NumberModel(InspectableWrapper):
    """A trained regressor, which maps lists or tensors of numbers to predictions.

    Example:
        model([[0.3, -1.2, 0.5], [0.9, 0, 0], [1.1, 0.2, -0.4]])[-1]

    Args:
        module: the regressor.
    """

    writes = False

    def __init__(self, module: Regressor) -> None:
        self.module = module

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.module.parameters()).device

    def __call__(
        self, numbers: Tensor | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]
    ) -> Tensor:
        """Maps numbers (B, T, I) to predictions (B, T), or numbers (T, I) to predictions (T,)."""
        inputs = torch.as_tensor(numbers, dtype=torch.float32, device=self.device)
        predictions: Tensor = self.module(inputs[None] if inputs.ndim == 2 else inputs)
        return first_row(predictions) if inputs.ndim == 2 else predictions
