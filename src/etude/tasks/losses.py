"""Cross-entropy losses, which exclude the labels `IGNORE`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.data.objective import IGNORE


def each_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the cross-entropy of each label, in nats, as float64; 0 for ignored labels.

    Args:
        logits: (..., C), for C classes.
        labels, weights: (...), as for `cross_entropy`.
    """
    flat = logits.double().flatten(0, -2)
    nats = F.cross_entropy(flat, labels.flatten(), reduction="none", ignore_index=IGNORE)
    nats = nats.view(labels.shape)
    return nats if weights is None else nats * weights


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Returns the summed cross-entropy, in nats, in float32 or higher.

    Args:
        logits: (..., C), for C classes.
        labels: (...), classes from 0 to C - 1; targets with the label `IGNORE` are excluded.
        label_smoothing: e; the target distribution is 1 - e on the label plus e / C on each class
            (Szegedy et al. 2015, arXiv:1512.00567, section 7).
        z_loss: c; adds c log(Z)^2 for each target, where Z is the softmax's denominator (Chowdhery
            et al. 2022, arXiv:2204.02311, section 5).
        weights: (...), factor of each target's cross-entropy, but not of its term of `z_loss`;
            None sets all factors to 1.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    labels = labels.flatten()
    reduction = "sum" if weights is None else "none"
    loss = F.cross_entropy(
        logits, labels, reduction=reduction, ignore_index=IGNORE, label_smoothing=label_smoothing
    )
    if weights is not None:
        loss = (loss * weights.flatten().to(loss.dtype)).sum()
    if z_loss:
        log_z = logits.logsumexp(-1)[labels != IGNORE]
        loss = loss + z_loss * log_z.square().sum()
    return loss
