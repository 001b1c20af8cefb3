"""WordPiece, the tokenizer of BERT."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from etude.data.tokenizer import Recipe, Tokenizer, special_token
from etude.data.tokenizer_training import check_vocabulary, learn, warn_if_smaller
from etude.errors import Problem, RequestError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
INSIDE = "##"  # marks a piece that continues a word
_MARK = "\u2581"  # marks the beginning of a word during training


@dataclass(frozen=True)
class WordPiece(Recipe):
    """WordPiece tokenizer, which splits words into pieces, as in BERT.

    The method is that of Devlin et al. 2019, section 3, and Wu et al. 2016, section 4.1. Text is
    cleaned, lowercased without accents if `lowercase` is set, and split at whitespace and
    around punctuation and Chinese characters. A word is then spelt from its start with the longest
    matching pieces of the vocabulary; if no piece matches, the word becomes `[UNK]`. So the
    tokenizer is lossy: spaces, and characters that the normalizer changes, are lost. A run with
    this tokenizer reports no bits per byte, since that metric would ignore the lost text.

    Ids are BERT's five special tokens, then single characters, then pieces in the order of
    training; `[SEP]` is the token between documents. Pieces are trained by byte-pair encoding of
    words that begin with a mark. (The library's own WordPiece trainer does the same with marks
    inside words, and numbers its pieces in the order of a hash map, which differs between
    processes.)

    Args:
        vocab_size: number of ids in total; fewer if the text is too small for that many pieces.
        lowercase: whether to lowercase text and strip accents.
    """

    vocab_size: int = 8192
    lowercase: bool = True

    def __post_init__(self) -> None:
        check_vocabulary(
            self.vocab_size,
            len(SPECIAL) + 2,
            "BERT's 5 special tokens, and one letter in two forms: alone and with the prefix ##",
        )

    @property
    def stated_size(self) -> int | None:
        return self.vocab_size

    def train(self, texts: Iterable[str]) -> Tokenizer:
        learner = tokenizers.Tokenizer(models.BPE())
        learner.normalizer = bert_normalizer(self.lowercase)
        learner.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(_MARK, "always")]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size, min_frequency=2, show_progress=False
        )
        learn(learner, trainer, texts)
        by_id = sorted(learner.get_vocab().items(), key=lambda item: item[1])
        letters = sorted({letter for piece, _ in by_id for letter in piece} - {_MARK})
        vocabulary = [*SPECIAL, *letters, *(INSIDE + letter for letter in letters)]
        if len(vocabulary) > self.vocab_size:
            expected = (
                f"at least {len(vocabulary)} (the text has {len(letters)} distinct characters)"
            )
            where = "data.tokenizer.vocab_size"
            raise RequestError(Problem(where, expected, self.vocab_size))
        pieces = [_as_in_bert(piece) for piece, _ in by_id if piece != _MARK]
        vocabulary = list(dict.fromkeys([*vocabulary, *pieces]))[: self.vocab_size]
        tokenizer = bert_tokenizer(vocabulary, self.lowercase)
        warn_if_smaller(tokenizer.vocab_size, self.vocab_size)
        return tokenizer


def bert_tokenizer(vocabulary: list[str], lowercase: bool) -> Tokenizer:
    """Returns BERT's tokenizer with a given vocabulary.

    Args:
        vocabulary: the tokens, in the order of their ids.
        lowercase: whether to lowercase text and strip accents.
    """
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    backend = tokenizers.Tokenizer(
        models.WordPiece(numbers, unk_token="[UNK]", continuing_subword_prefix=INSIDE)
    )
    backend.normalizer = bert_normalizer(lowercase)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # Without `cleanup`, which also changes "do not" to "don't".
    backend.decoder = decoders.WordPiece(INSIDE, cleanup=False)
    special = [name for name in SPECIAL if name in numbers]
    backend.add_special_tokens([special_token(name) for name in special])
    return Tokenizer(backend)


def bert_normalizer(lowercase: bool) -> normalizers.BertNormalizer:
    """Returns BERT's normalizer.

    It removes control characters and puts spaces around Chinese characters.

    Args:
        lowercase: whether it also lowercases text and strips accents.
    """
    return normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase
    )


def _as_in_bert(piece: str) -> str:
    return piece.removeprefix(_MARK) if piece.startswith(_MARK) else INSIDE + piece
