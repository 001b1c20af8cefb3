"""Mixtures: several corpora combined, each with a fraction of the training examples."""

from __future__ import annotations

import hashlib
import heapq
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from etude.data.curriculum import Stages
from etude.data.order import ORDERS, Order, permute, round_keys
from etude.data.splits import Document, Part, SectionMeta, Split
from etude.data.text import Batch, TextData, of_source
from etude.errors import Checks, Problem, RequestError, nearest

MIXTURE_STREAM = 0x4D495854
CHUNK = 256  # number of examples of a source whose positions are drawn together

_NOTHING = (-1, np.empty(0, dtype=np.int64))
_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


@dataclass(kw_only=True, eq=False)
class Mixture(TextData):
    """Corpus mixed from several sources, whose weights set their fractions of the run's examples.

    The fractions are exact in the long run. After m examples of K sources, a source whose fraction
    is w has provided m w examples, up to a deviation of (1 + K w) / 2. Within each source,
    `order` orders the examples as if the source were the only one. The order has no state: example
    g of the run depends only on the seed, the batch size and g.

    One tokenizer is trained on the training splits of all sources, regardless of the weights, so a
    sweep over weights prepares its data once. Validation uses the validation splits of all sources
    together (`val/loss`, a mean over tokens, independent of the weights) and of each source
    separately (`val/<name>/loss`).

    A source is the config of any text data with `_partial_: true`. The mixture completes this
    config with the tokenizer, the sequence length and the batch size. An example of a config file,
    used as `data=mine`::

        defaults:
          - tokenizer: bpe
          - _self_
        _target_: etude.data.mixture.Mixture
        sources:
          speeches: {_target_: etude.data.sotu.Sotu, _partial_: true, held_out_from: 2005}
          notes: {_target_: etude.data.text_files.TextFiles, _partial_: true, path: notes/}
        weights: {speeches: 0.7, notes: 0.3}
        sequence_length: 64
        batch: {examples: 12}

    `data=mixture data.weights.early=3` changes a weight of Étude's own config `data/mixture.yaml`.

    Args:
        sources: factories of the sources, by name; a factory accepts tokenizer, sequence_length
            and batch.
        weights: positive weights of the sources, by name; they need not sum to one.
        order: order of the examples within each source: `windows` (drawn at random, with
            replacement) or `epochs` (each example once per epoch).

    Attributes:
        corpora: the created sources, by name.

    Raises:
        RequestError: if the config of a source is invalid; contains the errors of all sources.
    """

    sources: dict[str, Callable[..., TextData]]
    weights: dict[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.section_names = tuple(sorted(self.sources))  # independent of the order in the config
        self.weights = {name: self.weights[name] for name in self.section_names}
        self.corpora: dict[str, TextData] = {}
        problems: list[Problem] = []
        for name in self.section_names:
            source = self.sources[name]
            if not callable(source):
                hint = f"to remove the source, add '~data.sources.{name}' '~data.weights.{name}'"
                expected = "a config with _partial_: true and a data class as _target_"
                problems.append(Problem(f"data.sources.{name}", expected, source, hint))
                continue
            try:  # the sizes are placeholders: the mixture forms the windows
                self.corpora[name] = source(
                    tokenizer=self.tokenizer, sequence_length=1, batch=Batch(examples=1)
                )
            except RequestError as error:
                problems += error.problems
            else:
                if "test" in self.corpora[name].splits:
                    expected = "null (a mixture has no test split)"
                    problems.append(Problem(f"data.sources.{name}.test", expected))
        if problems:
            raise RequestError(problems)

    def validate(self, checks: Checks) -> None:
        _check_names(checks, self.sources, self.weights)
        super().validate(checks)

    def check(self) -> None:
        problems: list[Problem] = []
        for name, source in self.corpora.items():
            try:
                source.check()
            except RequestError as error:
                problems += (of_source(f"data.sources.{name}", each) for each in error.problems)
        if problems:
            raise RequestError(problems)

    def content_fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, source in self.corpora.items():
            digest.update(f"{name} {source.content_fingerprint()}\n".encode())
        return digest.hexdigest()

    def split_settings(self) -> dict[str, object]:
        sources = {name: source.split_settings() for name, source in self.corpora.items()}
        return {"corpus": "mixture", "sources": sources}

    def origin(self) -> dict[str, object]:
        origins = {name: source.origin() for name, source in self.corpora.items()}
        known_origins = {name: origin for name, origin in origins.items() if origin}
        return {"sources": known_origins} if known_origins else {}

    def documents(self, split: Split) -> Iterator[str]:
        return (text for _, text in self.sourced(split))

    def sourced(self, split: Split) -> Iterator[Document]:
        for name, source in self.corpora.items():
            for where, text in source.sourced(split):
                yield f"{name}, {where}", text

    def parts(self) -> dict[str, Part]:
        return {name: source.passages for name, source in self.corpora.items()}

    def order_of(self, seed: int) -> Order:
        changes = None if self.curriculum is None else self.curriculum.weights
        stages = Stages(self.weights, changes).values
        return MixtureOrder(
            self.meta.splits["train"].sections,
            [(self.sizes.before(step), weights) for step, weights in stages],
            length=self.window,
            batch=self.examples_per_step,
            seed=seed,
            within=self.order,
        )

    def mixed(self) -> Mapping[str, object]:
        return self.sources


@dataclass(frozen=True)
class Shares:
    """Assignment of examples to sources, in which each source gets its fraction of the examples.

    Example j, from 0, of a source with weight w (all weights sum to one) is due at time
    (j + 1/2) / w, and the examples are in the order of these times; equal times are in the order of
    the sources. This is the method of Webster or Sainte-Laguë for the apportionment of seats
    (Balinski and Young 1982, "Fair representation"), one seat at a time. After m examples of K
    sources, a source has provided m w examples, up to a deviation of (1 + K w) / 2.

    Args:
        weights: weights of the sources, with any sum; at least one is positive. They are
            interpreted as decimal numbers: 0.1 is exactly 1/10.
    """

    weights: tuple[float, ...]

    @cached_property
    def units(self) -> tuple[int, ...]:
        """The sources' weights as whole numbers in the same proportions.

        With them the order of the sources is computed without rounding errors.
        """
        exact = [Fraction(repr(float(weight))) for weight in self.weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        units = [int(weight * scale) for weight in exact]
        return tuple(unit // math.gcd(*units) for unit in units)

    def counts(self, examples: int) -> list[int]:
        """Returns the number of examples of each source among the first `examples` examples.

        The sources are in the order of `weights`.
        """
        # Up to time t a source provides floor(w t + 1/2) examples, and all K sources t +- K / 2.
        active = sum(unit > 0 for unit in self.units)
        twice, whole = max(2 * examples - active, 0), sum(self.units)
        counts = [(unit * twice + whole) // (2 * whole) for unit in self.units]
        for source in self._after(counts, examples - sum(counts)):
            counts[source] += 1
        return counts

    def sources(self, counts: list[int], number: int) -> list[int]:
        """Returns the index of the source of each of the next `number` examples.

        Args:
            counts: number of earlier examples of each source.
            number: number of examples to assign.
        """
        return list(self._after(counts, number))

    def _after(self, counts: list[int], number: int) -> Iterator[int]:
        once = math.lcm(*filter(None, self.units))
        gaps = {k: 2 * once // unit for k, unit in enumerate(self.units) if unit}
        due = [(counts[k] * gap + gap // 2, k) for k, gap in gaps.items()]
        heapq.heapify(due)
        for _ in range(number):
            time, source = due[0]
            heapq.heapreplace(due, (time + gaps[source], source))
            yield source


class MixtureOrder:
    """Order of the windows of a mixture, whose sources are stored in one file.

    `Shares` assigns the windows of a step to sources. The assignment is shuffled with random
    numbers that depend only on (seed, step), so that the sources are mixed in each micro-batch and
    on each rank. Within each source, the windows are in the order `within`.

    Args:
        sections: dict from each source's name to the position of its tokens in the file, and their
            number.
        stages: periods of the run with different weights. Each is a pair: the number of examples
            before the stage, and a dict from the sources' names to their weights.
        length: number of targets in a window.
        batch: number of windows in an optimizer step.
        seed: the run's seed, not negative.
        within: order of the windows of a source, `windows` or `epochs`.
    """

    def __init__(
        self,
        sections: Mapping[str, SectionMeta],
        stages: Sequence[tuple[int, Mapping[str, float]]],
        *,
        length: int,
        batch: int,
        seed: int,
        within: str,
    ) -> None:
        self.stages = [first for first, _ in stages]
        self.shares = [Shares(tuple(each[name] for name in sections)) for _, each in stages]
        self.batch = batch
        self.seed = seed
        self.begins = [section.start for section in sections.values()]
        self.orders = [
            ORDERS[within](section.tokens, length, CHUNK, _seed_of(name, seed))
            for name, section in sections.items()
        ]
        # Cache of the last drawn chunk of each source, for the next steps.
        self._latest: list[tuple[int, NDArray[np.int64]]] = [_NOTHING] * len(sections)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Returns the index of the first token of each window of an optimizer step.

        The index counts the tokens of the file. The shape is (number of windows in a step,).
        """
        return self.windows(step, step * self.batch, self.batch)

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """Returns the position in the file at which each window of an optimizer step begins.

        The shape is (count,).

        Args:
            step: number of the optimizer step, from 0.
            first: number of windows in all earlier steps.
            count: number of windows in the step.
        """
        stage = bisect_right(self.stages, first) - 1
        ends = self.stages[1 : stage + 1]
        shares = self.shares[stage]
        stage_counts = shares.counts(first - self.stages[stage])
        before_each = list(stage_counts)
        for earlier, start, end in zip(self.shares, self.stages, ends, strict=False):
            before_each = [*map(sum, zip(before_each, earlier.counts(end - start), strict=True))]
        keys = round_keys(MIXTURE_STREAM, self.seed, step)
        places = permute(np.arange(count, dtype=np.uint64), count, keys)
        sources = np.array(shares.sources(stage_counts, count))[places.astype(np.int64)]
        starts = np.empty(count, dtype=np.int64)
        for source, before in enumerate(before_each):
            rows = np.flatnonzero(sources == source)
            starts[rows] = self.begins[source] + self._source_starts(source, before, len(rows))
        return starts

    def _source_starts(self, source: int, first: int, number: int) -> NDArray[np.int64]:
        """Returns where the next examples of a source begin, as positions in the source's tokens.

        Args:
            source: index of the source.
            first: number of examples that the source has provided before.
            number: number of next examples.
        """
        last = first + max(number, 1) - 1
        chunks = [self._chunk(source, c) for c in range(first // CHUNK, last // CHUNK + 1)]
        return np.concatenate(chunks)[first % CHUNK :][:number]

    def _chunk(self, source: int, chunk: int) -> NDArray[np.int64]:
        if self._latest[source][0] != chunk:
            self._latest[source] = chunk, self.orders[source].starts(chunk)
        return self._latest[source][1]


def _seed_of(name: str, seed: int) -> int:
    # By name, so that a source's windows don't change when others are added or removed.
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check_names(
    checks: Checks, sources: Mapping[str, object], weights: Mapping[str, float]
) -> None:
    expected = "a mapping from names of sources to their configs, with at least one source"
    checks.that(bool(sources), "sources", sources, expected)
    for name in sources:
        expected = "a name of letters, digits, _ and - that begins with a letter or a digit"
        checks.that(_NAME.fullmatch(name) is not None, "sources", name, expected)
        if name not in weights:
            checks.problems.append(Problem(f"weights.{name}", f"a weight for the source {name}"))
    for name, weight in weights.items():
        key = f"weights.{name}"
        expected = "the name of a source in data.sources"
        if not checks.that(name in sources, key, weight, expected, nearest(name, sources)):
            continue
        removal = "to leave out the source, remove it from data.sources and data.weights"
        hint = removal if weight == 0 else None
        checks.that(0 < weight < math.inf, key, weight, "a positive number", hint)
