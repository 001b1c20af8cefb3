"""Masking: which tokens, how often, and as a function of seed and step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from etude.data.objective import IGNORE, generator
from etude.data.tokenizer import Tokenizer
from etude.data.wordpiece import WordPiece
from etude.errors import InvalidArguments
from etude.tasks.masked_lm import MaskedLM, MaskObjective, word_begins

LEAST = 1e-4  # smallest accepted p-value


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "the masked language model predicts hidden words from both sides of a sentence"
    return WordPiece(90).train([text] * 3)


def bound(tokenizer: Tokenizer, **options: float) -> MaskObjective:
    return MaskedLM.objective(**options).bound(tokenizer, None)


def windows(tokenizer: Tokenizer, count: int = 400, length: int = 62) -> np.ndarray:
    draw = np.random.default_rng(0)
    return draw.integers(5, tokenizer.vocab_size, (count, length))  # after the special ones


@pytest.mark.parametrize(
    ("rate", "mask", "random"), [(0.15, 0.8, 0.1), (0.4, 0.8, 0.1), (0.3, 1.0, 0.0), (0.2, 0, 0.5)]
)
def test_rates_by_chi_square(tokenizer: Tokenizer, rate: float, mask: float, random: float) -> None:
    """The rates of selection, masking, replacement and unchanged tokens are those of the config."""
    objective = bound(tokenizer, rate=rate, mask=mask, random=random)
    text = windows(tokenizer)
    arrays = objective(text, generator(3, 1))
    tokens, labels = arrays["tokens"][:, 1:-1], arrays["labels"][:, 1:-1]
    chosen = labels != IGNORE
    assert np.array_equal(labels[chosen], text[chosen])
    assert np.array_equal(tokens[~chosen], text[~chosen])
    total = text.size
    expected = [total * rate, total * (1 - rate)]
    assert stats.chisquare([chosen.sum(), total - chosen.sum()], expected).pvalue > LEAST
    there, original = tokens[chosen], text[chosen]
    ordinary = tokenizer.vocab_size - 5
    by_chance = random / ordinary  # the random token may be the original one
    counts = [
        (there == tokenizer.mask).sum(),
        ((there != tokenizer.mask) & (there != original)).sum(),
        (there == original).sum(),
    ]
    shares = np.array([mask, random - by_chance, 1 - mask - random + by_chance])
    possible = shares > 0
    assert np.array(counts)[~possible].sum() == 0
    observed, wanted = np.array(counts)[possible], shares[possible] * chosen.sum()
    assert len(observed) == 1 or stats.chisquare(observed, wanted).pvalue > LEAST
    replaced = there[(there != tokenizer.mask) & (there != original)]
    if len(replaced) > 10 * ordinary:
        assert stats.chisquare(np.bincount(replaced)[5:]).pvalue > LEAST


def test_special_tokens_are_never_chosen(tokenizer: Tokenizer) -> None:
    special = sorted(tokenizer.special_tokens().values())
    text = np.tile(np.array([*special, 20, 21]), (500, 4))
    arrays = bound(tokenizer, rate=0.5)(text, generator(0, 0))
    inside = arrays["labels"][:, 1:-1]
    assert set(inside[np.isin(text, special)]) == {IGNORE}
    assert (arrays["tokens"][:, 0] == tokenizer.special_tokens()["[CLS]"]).all()
    assert (arrays["tokens"][:, -1] == tokenizer.special_tokens()["[SEP]"]).all()


def test_whole_words(tokenizer: Tokenizer) -> None:
    """All pieces of a word are selected, or none; words at the configured rate."""
    objective = MaskedLM.objective(rate=0.3, whole_word=True).bound(tokenizer, None)
    text = windows(tokenizer)
    chosen = objective(text, generator(0, 0))["labels"][:, 1:-1] != IGNORE
    begins = word_begins(tokenizer)[text]
    begins[:, 0] = True  # after [CLS]
    word = np.cumsum(begins, axis=1)
    picked = words = 0
    for row, mine in zip(word, chosen, strict=True):
        for number in range(1, row[-1] + 1):
            pieces = mine[row == number]
            assert pieces.all() or not pieces.any()
            picked, words = picked + bool(pieces[0]), words + 1
    assert stats.binomtest(picked, words, 0.3).pvalue > LEAST


def test_masks_are_a_function_of_seed_and_step(tokenizer: Tokenizer) -> None:
    objective, text = bound(tokenizer), windows(tokenizer, 4)
    once = objective(text, generator(3, 1))["tokens"]
    assert np.array_equal(once, objective(text, generator(3, 1))["tokens"])
    assert not np.array_equal(once, objective(text, generator(3, 2))["tokens"])
    assert not np.array_equal(once, objective(text, generator(4, 1))["tokens"])


@pytest.mark.parametrize(
    "bad", [{"rate": 0.0}, {"rate": 1.0}, {"mask": 1.2}, {"mask": 0.9, "random": 0.2}]
)
def test_what_cannot_be_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidArguments):
        MaskedLM.objective(**bad)


def test_a_tokenizer_without_a_mask_gets_one(tmp_path: Path, corpus: Path) -> None:
    from etude.data.text import Batch
    from etude.data.text_files import TextFiles
    from etude.data.tokenizer import Char

    def new_data() -> TextFiles:
        return TextFiles(
            path=str(corpus), tokenizer=Char(), sequence_length=16, batch=Batch(examples=2)
        )

    plain, masked = new_data(), new_data()
    masked.for_task(MaskedLM.objective())
    for data in (plain, masked):
        data.check()
        data.prepare(tmp_path / "cache")
    assert masked.tokenizer_.vocab_size == plain.tokenizer_.vocab_size + 1
    assert masked.tokenizer_.mask == plain.tokenizer_.vocab_size
    assert Tokenizer.load(masked.store.folder / "tokenizer.json").mask is not None
