"""Loading of a released model, with its tokenizer, from a path or the Hugging Face Hub."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from etude.errors import Problem, RequestError, nearest
from etude.interop import tokenizers, weights_location
from etude.interop.gguf import GGUF, SUFFIX
from etude.interop.no_tokenizer import NoTokenizer
from etude.interop.pretrained import DTYPES, LoadedModel, load_tensors, load_weights
from etude.interop.tokenizers import ReleasedTokenizer, TextBoundaries
from etude.interop.weights_location import WeightsLocation
from etude.models.decoder import Decoder
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.language_model import LanguageModel
from etude.models.seq2seq import Seq2Seq
from etude.models.text_encoder import TextEncoder

log = logging.getLogger("etude")


@dataclass(frozen=True)
class ReleasedModel:
    """A released model with its tokenizer.

    Attributes:
        place: the location of the files.
        loaded: the module and its config.
        tokenizer: the tokenizer; None if it cannot be read.
        ends: the token before a prompt, and the stop tokens.
        tokenizer_error: the reason why the tokenizer cannot be read; None if it can.
        chat: the chat template (Jinja) in a GGUF file; None for a folder.
    """

    place: WeightsLocation
    loaded: LoadedModel
    tokenizer: ReleasedTokenizer | None
    ends: TextBoundaries
    tokenizer_error: RequestError | None = None
    chat: str | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of the released model's files; None if it is a single GGUF file."""
        path = self.place.path
        if path.suffix == SUFFIX:
            return None
        return path if path.is_dir() else path.parent


def parse_dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """Returns the dtype with the name `name`, such as `bfloat16`.

    A dtype or None is returned unchanged.

    Raises:
        RequestError: the dtype is unknown, or not supported for weights.
    """
    if name is None or name in DTYPES.values():
        return name if isinstance(name, torch.dtype) else None
    if name not in DTYPES:
        expected = f"one of {', '.join(DTYPES)}"
        raise RequestError(Problem("dtype", expected, str(name), nearest(str(name), DTYPES)))
    return DTYPES[str(name)]


def load_released(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    architecture: str | None = None,
) -> ReleasedModel:
    """Loads a released model from a path or from the Hugging Face Hub.

    Args:
        source, revision: see `etude.interop.weights_location.locate_weights`.
        dtype: the dtype of the parameters; if None, that of the files (float32 for GGUF).
        device: the device of the parameters.
        architecture: the class of `transformers` to read the weights as; if None, the config's.

    Raises:
        RequestError: the source cannot be read.
    """
    wanted = parse_dtype(dtype)
    location = weights_location.locate_weights(source, revision)
    if (location.path / "run.json").is_file():
        hint = "this folder contains a run; to load a run, use etude.load_run"
        raise RequestError(Problem("source", "released weights", str(source), hint))
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise RequestError(
            Problem("device", "a device that exists on this machine", str(device), reason)
        ) from error
    if location.path.suffix == SUFFIX:
        file = GGUF(location.path)
        loaded = load_tensors(
            file,
            file.config(),
            dtype=wanted or torch.float32,
            device=where,
            architecture=architecture,
        )
        tokenizer_error = None
        tokenizer, ends = None, TextBoundaries()
        try:
            tokenizer, ends = tokenizers.load_gguf_tokenizer(file)
        except RequestError as error:
            tokenizer_error = error
        chat = file.get("tokenizer.chat_template")
        released = ReleasedModel(location, loaded, tokenizer, ends, tokenizer_error, chat)
    else:
        loaded = load_weights(location.path, dtype=wanted, device=where, architecture=architecture)
        folder = location.path if location.path.is_dir() else location.path.parent
        try:
            tokenizer = tokenizers.load_folder_tokenizer(folder, loaded.config)
            ends = tokenizers.load_boundaries(folder, loaded.config, tokenizer)
            released = ReleasedModel(location, loaded, tokenizer, ends)
        except RequestError as error:
            released = ReleasedModel(location, loaded, None, TextBoundaries(), error)
    return _without_unknown_ids(released)


def text_model(released: ReleasedModel) -> LanguageModel | Seq2Seq | TextEncoder:
    """Returns a released model with its tokenizer: a `LanguageModel`, `Seq2Seq` or `TextEncoder`.

    If the tokenizer cannot be read, logs a warning; the result then accepts only token ids.
    """
    module, ends = released.loaded.module, released.ends
    tokenizer: Any = released.tokenizer
    if tokenizer is None:
        assert released.tokenizer_error is not None
        log.warning("no tokenizer, the model accepts only token ids: %s", released.tokenizer_error)
        tokenizer = NoTokenizer(module.embedding.num_embeddings, released.tokenizer_error)
    if isinstance(module, Decoder):
        return LanguageModel(module, tokenizer, begin_token=ends.begin, stop_tokens=ends.stops)
    if isinstance(module, EncoderDecoder):
        return Seq2Seq(module, tokenizer, stop_tokens=ends.stops)
    return TextEncoder(module, tokenizer)


def _without_unknown_ids(released: ReleasedModel) -> ReleasedModel:
    """Returns a released model without those begin and stop tokens that have no row in the
    embedding.

    If the tokenizer has more tokens than the embedding has rows, the result has no tokenizer, and
    its `tokenizer_error` gives this reason.
    """
    tokenizer, module = released.tokenizer, released.loaded.module
    known, ends = range(module.embedding.num_embeddings), released.ends
    begin = ends.begin if ends.begin in known else None
    ends = TextBoundaries(begin, tuple(token for token in ends.stops if token in known))
    released = replace(released, ends=ends)
    if tokenizer is None or tokenizer.vocab_size <= module.embedding.num_embeddings:
        return released
    expected = f"at most {module.embedding.num_embeddings}, the number of embeddings in the model"
    where = f"{released.place.path}, number of tokens in the tokenizer"
    problem = Problem(where, expected, tokenizer.vocab_size)
    return replace(released, tokenizer=None, tokenizer_error=RequestError(problem))
