"""Loss of a language model by position, by frequency of the token, and by its repetitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from etude.errors import Checks, Problem, RequestError
from etude.interpret.inputs import Ids, measuring, module_of, token_ids

if TYPE_CHECKING:
    import pandas as pd


def loss_by_position(model: Any, ids: Ids) -> pd.Series:
    """Returns the mean loss in nats by the position of the predicted token.

    Args:
        model: a decoder.
        ids: token ids (B, T), or a text.

    Returns:
        Values by `position`, from 1 to T - 1.
    """
    import pandas as pd

    losses, _ = _losses(model, ids)
    index = pd.RangeIndex(1, losses.shape[1] + 1, name="position")
    return pd.Series(losses.mean(0).tolist(), index=index, dtype=float, name="value")


def loss_by_frequency(model: Any, ids: Ids, counts: Any = None, *, groups: int = 10) -> pd.Series:
    """Returns the mean loss in nats by the frequency of the predicted token.

    Args:
        model: a decoder.
        ids: token ids (B, T), or a text.
        counts: number of occurrences of each token of the vocabulary, (V,), such as in the training
            text; None counts them in `ids`.
        groups: number of groups of about as many predicted tokens each, from rare to frequent
            tokens. A token is in one group only.

    Returns:
        Values by `count`: the largest count of the tokens in the group.
    """
    import pandas as pd

    checks = Checks()
    checks.positive(groups=groups)
    losses, targets = _losses(model, ids)
    number = module_of(model).embedding.num_embeddings
    seen = (
        targets.flatten().bincount(minlength=number) if counts is None else torch.as_tensor(counts)
    )
    checks.that(len(seen) == number, "counts", len(seen), f"a count for each of {number} tokens")
    if checks.problems:
        raise RequestError(checks.problems)
    frame = pd.DataFrame(
        {"loss": losses.flatten().tolist(), "count": seen[targets.flatten().cpu()].tolist()}
    )
    group = pd.qcut(frame["count"], groups, duplicates="drop")
    means = frame.groupby(group, observed=True).agg({"loss": "mean", "count": "max"})
    return means.set_index("count")["loss"].rename(None)


def loss_by_repetition(model: Any, ids: Ids) -> pd.Series:
    """Returns the mean loss in nats by how often the predicted token occurred before in the
    sequence.

    Args:
        model: a decoder.
        ids: token ids (B, T), or a text.

    Returns:
        Values by `repetition`: 0 for the first occurrence of a token in its sequence.
    """
    import pandas as pd

    tokens = token_ids(model, ids)
    losses, _ = _losses(model, tokens)
    same = tokens[:, None, :] == tokens[:, :, None]  # (B, T, T)
    earlier = same.tril(-1).sum(-1)[:, 1:]
    frame = pd.DataFrame(
        {"loss": losses.flatten().tolist(), "repetition": earlier.flatten().tolist()}
    )
    return frame.groupby("repetition")["loss"].mean().rename(None)


def _losses(model: Any, ids: Ids) -> tuple[Tensor, Tensor]:
    """Returns the losses of all tokens but the first, and these tokens; both (B, T - 1)."""
    module = module_of(model)
    if not getattr(getattr(module, "mask", None), "causal", True):
        expected = "a model that predicts the next token from the tokens before it"
        raise RequestError(Problem("model", expected, type(module).__name__))
    tokens = token_ids(model, ids)
    with measuring(model):
        logits = module(tokens)
    targets = tokens[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape), targets
