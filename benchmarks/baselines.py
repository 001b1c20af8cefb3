"""What the results are compared with: plain methods that anybody would try first.

Each takes texts and what is to be said of them, and says it of others; none reads a test split's
answers. scikit-learn does the work.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction import FeatureHasher
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import accuracy_score, f1_score

Sentence = tuple[Sequence[str], Sequence[str]]
"""Words and their tags."""

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""C of the logistic regression; the best on validation is taken."""


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels."""

    texts: Sequence[str]
    labels: Sequence[str]


def scored(actual: Sequence[str], found: Sequence[str], positive: str | None) -> float:
    """F1 of the positive label; accuracy if there is none."""
    if positive is None:
        return float(accuracy_score(actual, found))
    return float(f1_score(actual, found, pos_label=positive))


def tfidf(
    train: Labelled, val: Labelled, test: Labelled, positive: str | None
) -> tuple[float, float]:
    """Logistic regression on TF-IDF of words and pairs of words.

    Returns:
        Its score on test, and the C that was best on validation.
    """
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    x, y, z = (
        vectors.fit_transform(train.texts),
        vectors.transform(val.texts),
        vectors.transform(test.texts),
    )
    best = (-1.0, 0.0, 0.0)
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=2000).fit(x, train.labels)
        on_val = scored(val.labels, model.predict(y), positive)
        if on_val > best[0]:
            best = (on_val, scored(test.labels, model.predict(z), positive), strength)
    return best[1], best[2]


def one_out(
    texts: Sequence[str], labels: Sequence[str], groups: Sequence[str], strength: float
) -> tuple[float, float]:
    """How much of all texts is right where each group's labels are found from all other groups, by
    logistic regression on TF-IDF; and the part of the most frequent label.
    """
    x = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2).fit_transform(texts)
    y, where = np.array(labels), np.array(groups)
    right = 0
    for group in dict.fromkeys(groups):
        inside = where == group
        model = LogisticRegression(C=strength, max_iter=300).fit(x[~inside], y[~inside])
        right += int((model.predict(x[inside]) == y[inside]).sum())
    return right / len(y), Counter(labels).most_common(1)[0][1] / len(y)


def most_frequent_tag(train: Sequence[Sentence], test: Sequence[Sentence]) -> list[list[str]]:
    """Each word's most frequent tag in training; of a word that is not there, that of the words
    that are there once.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for words, tags in train:
        for word, tag in zip(words, tags, strict=True):
            counts[word][tag] += 1
    once = Counter(next(iter(found)) for found in counts.values() if found.total() == 1)
    unseen = once.most_common(1)[0][0]
    usual = {word: found.most_common(1)[0][0] for word, found in counts.items()}
    return [[usual.get(word, unseen) for word in words] for words, _ in test]


def linear_tags(train: Sequence[Sentence], test: Sequence[Sentence]) -> list[list[str]]:
    """A linear classifier of each word by itself, its letters and the two words on either side."""
    hasher = FeatureHasher(2**20, input_type="string", alternate_sign=False)
    x = hasher.transform(_features(words, i) for words, _ in train for i in range(len(words)))
    y = np.array([tag for _, tags in train for tag in tags])
    model = SGDClassifier(
        loss="modified_huber", alpha=3e-6, max_iter=12, tol=None, average=True, random_state=0
    ).fit(x, y)
    found = iter(
        model.predict(
            hasher.transform(_features(words, i) for words, _ in test for i in range(len(words)))
        )
    )
    return [[str(next(found)) for _ in words] for words, _ in test]


def _features(words: Sequence[str], place: int) -> list[str]:
    at = [words[i] if 0 <= i < len(words) else "" for i in range(place - 2, place + 3)]
    word = at[2]
    latin = "latin" if word.isascii() and word.isalpha() else "other"
    return [
        *(f"{offset}={other}" for offset, other in enumerate(at)),
        f"1,2={at[1]},{word}",
        f"2,3={word},{at[3]}",
        f"1,3={at[1]},{at[3]}",
        f"first={word[0]}",
        f"last={word[-1]}",
        f"shape={latin},{word[0].isupper()},{min(len(word), 5)}",
        *(f"has={letter}" for letter in word[:5]),
    ]


def accuracy_of_tags(test: Sequence[Sentence], found: Sequence[Sequence[str]]) -> float:
    """The part of the words whose tag is right."""
    right = [
        a == b
        for (_, tags), guesses in zip(test, found, strict=True)
        for a, b in zip(tags, guesses, strict=True)
    ]
    return float(np.mean(right))


@dataclass(frozen=True)
class Memory:
    """A translation memory's answers.

    Attributes:
        targets: that of the nearest source in training, by the cosine of TF-IDF over letters.
        cosines: how near that source is.
    """

    targets: list[str]
    cosines: list[float]


def translation_memory(
    sources: Sequence[str], targets: Sequence[str], asked: Sequence[str]
) -> Memory:
    """The target of the training source that is most like each text."""
    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    known = vectors.fit_transform(sources)
    near = (vectors.transform(asked) @ known.T).tocsr()
    places = [int(near[i].toarray().argmax()) for i in range(near.shape[0])]
    return Memory(
        targets=[targets[place] for place in places],
        cosines=[float(near[i, place]) for i, place in enumerate(places)],
    )
