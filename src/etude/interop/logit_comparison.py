"""Comparison of the logits that two implementations compute from the same weights.

The input is fixed token ids. Both implementations compute in float64, since the rounding of float32
alone changes the logits of SmolLM2-135M by up to 1e-3 and would hide an error of that size.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from etude.errors import EtudeError
from etude.interop.pretrained import load_weights
from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder

ROWS, LENGTH = 2, 48
"""The shape of the fixed token ids."""


class UnreadableByTransformers(EtudeError):
    """Raised when `transformers` is not installed or cannot read the files."""


@dataclass(frozen=True)
class LogitDifference:
    """Difference between two tensors of logits.

    Attributes:
        largest, mean: the maximum and the mean of the absolute differences.
        scale: the largest absolute logit.
    """

    largest: float
    mean: float
    scale: float

    def within(self, tolerance: float) -> bool:
        """Returns whether no logit differs by more than `tolerance`; false for NaN."""
        return self.largest <= tolerance


def logit_difference(ours: Tensor, theirs: Tensor) -> LogitDifference:
    """Returns the difference of two tensors of logits; it is infinite if their shapes differ."""
    if ours.shape != theirs.shape:
        return LogitDifference(float("inf"), float("inf"), float(ours.abs().max()))
    errors = (ours.double() - theirs.double()).abs()
    return LogitDifference(float(errors.max()), float(errors.mean()), float(ours.abs().max()))


def token_ids(vocabulary: int, longest: int, pad: int | None = None) -> Tensor:
    """Returns fixed token ids of shape (2, T), spread over the vocabulary.

    T is `LENGTH` (48) or, if it is less, `longest`.

    Args:
        vocabulary: the number of tokens in the vocabulary.
        longest: the model's maximum number of tokens.
        pad: the id of the padding token, which is not used, since some families compute positions
            from it; None excludes no id.
    """
    ids = (torch.arange(ROWS * min(LENGTH, longest)) * 7919 + 13) % vocabulary
    if pad is not None and vocabulary > 1:
        ids[ids == pad] = (pad + 1) % vocabulary
    return ids.view(ROWS, -1)


@torch.inference_mode()
def logits_of(module: Any, architecture: str, pad: int | None = None) -> Tensor:
    """Computes the logits of an Étude module for the fixed `token_ids`, in float64 on the CPU.

    The shape is that of the module's output for two texts, such as (2, T, V). If `architecture` has
    no head, returns the output vectors of the last norm instead. The decoder of an encoder-decoder
    gets `_target_ids`. The module is not changed.

    Args:
        architecture: the class of `transformers`.
        pad: the padding token's id; None if the model has none. See `token_ids`.
    """
    copy = _in_float64(module)
    ids = token_ids(copy.embedding.num_embeddings, copy.max_length, pad)
    if isinstance(copy, EncoderDecoder):
        return copy(ids, _target_ids(ids, copy.start_token))
    if isinstance(copy, Decoder) and _has_no_head(architecture):
        return copy.hidden(ids)
    output: Tensor = copy(ids)
    return output


@torch.inference_mode()
def logits_of_transformers(
    source: Path, architecture: str, like: Any, pad: int | None = None
) -> Tensor:
    """Computes the logits of the model in a folder or a GGUF file with `transformers`.

    The input are the token ids that the function `token_ids` returns for `like` and `pad`. The
    shape is as in `logits_of`; for a class without a head, returns its last output vectors.

    Args:
        source: the folder, a weights file in it, or a GGUF file.
        architecture: the class of `transformers`.
        like: the Étude module, which determines the vocabulary and the length of the input, and
            whether the model needs a target.
        pad: the padding token's id; see `token_ids`.

    Raises:
        UnreadableByTransformers: `transformers` is not installed, or cannot read the files.
    """
    if find_spec("transformers") is None:
        raise UnreadableByTransformers("transformers is not installed")
    import transformers

    if source.suffix == ".gguf":
        folder, options = source.parent, {"gguf_file": source.name}
    else:
        folder, options = source if source.is_dir() else source.parent, {}
    with _quiet(transformers):
        try:
            model = getattr(transformers, architecture).from_pretrained(
                folder, dtype=torch.float64, local_files_only=True, **options
            )
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise UnreadableByTransformers(f"{type(error).__name__}: {reason}") from error
        ids = token_ids(like.embedding.num_embeddings, like.max_length, pad)
        if isinstance(like, EncoderDecoder):
            inputs = {"input_ids": ids, "decoder_input_ids": _target_ids(ids, like.start_token)}
        else:
            inputs = {"input_ids": ids}
        output = model.eval()(**inputs, attention_mask=torch.ones_like(ids))
    if "start_logits" in output:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)
    for key in ("logits", "prediction_logits", "last_hidden_state"):
        if key in output:
            logits: Tensor = output[key]
            return logits
    raise UnreadableByTransformers(f"{architecture} returns no logits")


def logits_read_again(folder: Path, architecture: str, pad: int | None = None) -> Tensor:
    """Loads the model in a folder with Étude, and returns its logits, computed by `logits_of`."""
    module = load_weights(folder, architecture=architecture).module
    return logits_of(module, architecture, pad)


def _has_no_head(architecture: str) -> bool:
    """Returns whether a `transformers` class has no head, such as `LlamaModel`."""
    return architecture.endswith("Model") and not architecture.endswith("LMHeadModel")


def _target_ids(ids: Tensor, start: int) -> Tensor:
    """Returns token ids for the input of a decoder, made from the encoder's input.

    Args:
        ids: the encoder's token ids, of shape (rows, T).
        start: the id of the start token.

    Returns:
        The first half of each row of `ids`, reversed, as a tensor of shape (rows, T // 2), or
        (rows, 1) if T is 1. Then the first id of each row is replaced by `start`.
    """
    half = ids[:, : max(1, ids.shape[1] // 2)].flip(1).clone()
    half[:, 0] = start
    return half


def _in_float64(module: nn.Module) -> Any:
    return deepcopy(module).to("cpu", torch.float64).eval()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Context manager that silences the progress bars and log messages of `transformers`.

    It also silences all other output to stderr. The argument is the imported package.
    """
    logger = transformers.utils.logging
    before, bars = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    other = logging.getLogger("transformers")
    level = other.level
    other.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):  # the GGUF progress bar ignores the setting
            yield
    finally:
        logger.set_verbosity(before)
        other.setLevel(level)
        if bars:
            logger.enable_progress_bar()
