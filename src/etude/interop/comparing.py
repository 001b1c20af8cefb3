"""How far the logits of two readings of the same weights are apart, on fixed token ids.

Both compute in float64: the rounding of float32 alone moves the logits of SmolLM2-135M by up to
1e-3, and would hide a mistake of that size.
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
"""Of the token ids that are compared on."""


class UnreadableByTransformers(EtudeError):
    """`transformers` cannot read it here."""


@dataclass(frozen=True)
class LogitDifference:
    """Between two readings.

    Attributes:
        largest, mean: of the absolute differences of all logits.
        scale: the largest absolute logit.
    """

    largest: float
    mean: float
    scale: float

    def within(self, tolerance: float) -> bool:
        """Whether all logits agree to `tolerance`; not-a-number never does."""
        return self.largest <= tolerance


def logit_difference(ours: Tensor, theirs: Tensor) -> LogitDifference:
    """Of two tensors of logits of one shape."""
    if ours.shape != theirs.shape:
        return LogitDifference(float("inf"), float("inf"), float(ours.abs().max()))
    apart = (ours.double() - theirs.double()).abs()
    return LogitDifference(float(apart.max()), float(apart.mean()), float(ours.abs().max()))


def token_ids(vocabulary: int, longest: int, pad: int | None = None) -> Tensor:
    """Fixed ids (2, T), T at most `LENGTH`, spread over the vocabulary.

    Args:
        pad: an id that is left out: some families count positions by it.
    """
    ids = (torch.arange(ROWS * min(LENGTH, longest)) * 7919 + 13) % vocabulary
    if pad is not None and vocabulary > 1:
        ids[ids == pad] = (pad + 1) % vocabulary
    return ids.view(ROWS, -1)


@torch.inference_mode()
def logits_of(module: Any, architecture: str, pad: int | None = None) -> Tensor:
    """Our module's, in float64 and on the CPU, for `token_ids`; the vectors of the last norm where
    the class of `transformers` has no head. The module is left as it was.
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
    """Those of what `transformers` reads from a folder or a GGUF file.

    Args:
        architecture: the class.
        like: our module, for the sizes.

    Raises:
        UnreadableByTransformers: it isn't installed, or says no.
    """
    if find_spec("transformers") is None:
        raise UnreadableByTransformers("transformers is not installed")
    import transformers

    if source.suffix == ".gguf":
        place: tuple[Path, dict[str, Any]] = source.parent, {"gguf_file": source.name}
    else:
        place = source if source.is_dir() else source.parent, {}
    with _quiet(transformers):
        try:
            model = getattr(transformers, architecture).from_pretrained(
                place[0], dtype=torch.float64, local_files_only=True, **place[1]
            )
        except Exception as error:
            said = next((line for line in str(error).splitlines() if line.strip()), "")
            raise UnreadableByTransformers(f"{type(error).__name__}: {said}") from error
        ids = token_ids(like.embedding.num_embeddings, like.max_length, pad)
        if isinstance(like, EncoderDecoder):
            given = {"input_ids": ids, "decoder_input_ids": _target_ids(ids, like.start_token)}
        else:
            given = {"input_ids": ids}
        output = model.eval()(**given, attention_mask=torch.ones_like(ids))
    if "start_logits" in output:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)
    for key in ("logits", "prediction_logits", "last_hidden_state"):
        if key in output:
            found: Tensor = output[key]
            return found
    raise UnreadableByTransformers(f"{architecture} gives no logits")


def logits_read_again(folder: Path, architecture: str, pad: int | None = None) -> Tensor:
    """Those of what we ourselves read from a folder."""
    module = load_weights(folder, architecture=architecture).module
    return logits_of(module, architecture, pad)


def _has_no_head(architecture: str) -> bool:
    """`LlamaModel`, `GPT2Model`; but GPT2LMHeadModel has one."""
    return architecture.endswith("Model") and not architecture.endswith("LMHeadModel")


def _target_ids(ids: Tensor, start: int) -> Tensor:
    """A target that begins with the start token, (2, T/2)."""
    half = ids[:, : max(1, ids.shape[1] // 2)].flip(1).clone()
    half[:, 0] = start
    return half


def _in_float64(module: nn.Module) -> Any:
    return deepcopy(module).to("cpu", torch.float64).eval()


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its bars and remarks."""
    logger = transformers.utils.logging
    before, bars = logger.get_verbosity(), logger.is_progress_bar_enabled()
    logger.set_verbosity_error()
    logger.disable_progress_bar()
    other = logging.getLogger("transformers")
    level = other.level
    other.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):  # of a GGUF its bar heeds no setting
            yield
    finally:
        logger.set_verbosity(before)
        other.setLevel(level)
        if bars:
            logger.enable_progress_bar()
