"""Optimizer that orthogonalises the momentum of matrices, used by `etude.optim.muon.Muon`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

A, B, C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic iteration (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/)."""
EPS = 1e-7


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """Orthogonalises matrices approximately: replaces each U S V^T (its singular value
    decomposition) by U V^T.

    Newton-Schulz iterations are used; the singular values of the result are between 0.7 and 1.2. On
    a CUDA device the function computes in bfloat16, as Muon's original implementation does. On
    other devices it uses the dtype of the matrices, because emulated bfloat16 products take thirty
    times as long as float32 products.

    Args:
        matrices: n matrices with a rows and b columns, as one tensor of shape (n, a, b).
        steps: number of iterations.
    """
    x = matrices.bfloat16() if matrices.device.type == "cuda" else matrices
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(steps):
        gram = x @ x.mT
        # x = A x + (B x x^T + C (x x^T)^2) x
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.mT if tall else x).to(matrices.dtype)


class Orthogonal(torch.optim.Muon):
    """Optimizer that orthogonalises the momentum: a faster variant of `torch.optim.Muon`.

    It processes matrices of the same shape together, with `orthogonalise`. The arguments are those
    of `torch.optim.Muon`.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates the parameters; returns the result of `closure`, or None without it.

        The momentum m of a gradient g becomes m + (1 - momentum) (g - m). The update is computed
        from g + momentum (m - g) with Nesterov momentum, otherwise from m.

        Args:
            closure: function without arguments that computes the loss and the gradients, and
                returns the loss; called before the update.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, parameters in by_shape.items():
                self._update(parameters, scale(shape, group["adjust_lr_fn"]), group)
        return loss

    def _update(self, parameters: list[Tensor], scale: float, group: dict[str, Any]) -> None:
        gradients: Any = [p.grad for p in parameters]
        for p, gradient in zip(parameters, gradients, strict=True):
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(gradient)
        momenta = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        if group["nesterov"]:
            momenta = list(torch._foreach_lerp(gradients, momenta, group["momentum"]))
        updates = orthogonalise(torch.stack(momenta), group["ns_steps"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(updates), alpha=-group["lr"] * scale)


def scale(shape: torch.Size, name: str | None) -> float:
    """Returns the factor by which the update of a matrix with the given shape is multiplied.

    Args:
        shape: (rows, columns).
        name: name of the rule for the factor, `original` or `match_rms_adamw`; see the argument
            `scale` of `Muon`. None means `original`.
    """
    a, b = shape
    return 0.2 * math.sqrt(max(a, b)) if name == "match_rms_adamw" else math.sqrt(max(1, a / b))
