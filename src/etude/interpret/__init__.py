"""Measures of what happens inside a model: attention heads, logits, losses and norms.

Each measure is a function of a model, which returns a `pandas.Series` with a named index, such as
`layer` and `head`. Its first argument can also be one of the wrappers that `Run.model` and
`load_pretrained` return. `score_table` shows the values of a measure in colours.
"""

from etude.interpret.attribution import logit_attribution
from etude.interpret.heads import (
    attention_entropy,
    copying_scores,
    duplicate_token_scores,
    induction_scores,
    previous_token_scores,
)
from etude.interpret.lens import lens_logits, logit_lens
from etude.interpret.losses import loss_by_frequency, loss_by_position, loss_by_repetition
from etude.interpret.norms import activation_norms, gradient_norms, update_norms, weight_norms
from etude.interpret.patching import patching, path_patching
from etude.interpret.score_table import score_table
from etude.interpret.similarity import cka, embedding_neighbours

__all__ = [
    "activation_norms",
    "attention_entropy",
    "cka",
    "copying_scores",
    "duplicate_token_scores",
    "embedding_neighbours",
    "gradient_norms",
    "induction_scores",
    "lens_logits",
    "logit_attribution",
    "logit_lens",
    "loss_by_frequency",
    "loss_by_position",
    "loss_by_repetition",
    "patching",
    "path_patching",
    "previous_token_scores",
    "score_table",
    "update_norms",
    "weight_norms",
]
