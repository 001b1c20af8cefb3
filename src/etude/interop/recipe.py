"""Recipe (part of a config) for a tokenizer that is read from a released model."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from etude.data.tokenizer import Recipe, Tokenizer
from etude.errors import Problem, RequestError
from etude.interop import tokenizers, weights_location
from etude.interop.gguf import GGUF, SUFFIX
from etude.interop.hf_config import HFConfig


class Released(Recipe):
    """Recipe that reads the tokenizer of a released model, instead of training a tokenizer.

    The names of special tokens in a text are encoded as ordinary text. The texts that `train`
    receives are not read.

    Args:
        source: a path or an id on the Hugging Face Hub.
        revision: a branch, tag or commit on the Hub; None for the main branch.
    """

    def __init__(self, source: str, revision: str | None = None) -> None:
        self.source, self.revision = source, revision

    def train(self, texts: Iterable[str]) -> Tokenizer:
        return _read(self.source, self.revision)

    def settings(self) -> dict[str, object]:
        return {"recipe": "pretrained", "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        return self.train(()).fingerprint

    def files_read(self) -> list[Path] | None:
        return None


@lru_cache(maxsize=2)
def _read(source: str, revision: str | None) -> Tokenizer:
    path = weights_location.locate_weights(source, revision).path
    if path.suffix == SUFFIX:
        released, ends = tokenizers.load_gguf_tokenizer(GGUF(path))
        end = ends.stops[0] if ends.stops else None
    else:
        folder = path if path.is_dir() else path.parent
        released = tokenizers.load_folder_tokenizer(folder, HFConfig.of(folder).values)
        end = released.end_of_text
    tokenizer = Tokenizer(released.backend, released.file)
    if end is None or tokenizer.end_of_text == end:
        return tokenizer
    name = tokenizer.backend.id_to_token(end)
    if name is None:
        expected = "an end-of-text token whose id is in the tokenizer's vocabulary"
        raise RequestError(Problem(str(Path(path)), expected, end))
    return tokenizer.closed_by(name)
