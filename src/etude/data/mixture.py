"""Several corpora as one, each with its share of the examples."""

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
CHUNK = 256  # a source's examples whose places are drawn at once

_NOTHING = (-1, np.empty(0, dtype=np.int64))
_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)


@dataclass(kw_only=True, eq=False)
class Mixture(TextData):
    """Corpora with weights: of the run's examples each source gives the share of its weight.

    In the long run the shares are exact, and no step is further from them than about one example a
    source; within a source its own order holds (`windows` or `epochs`, by its own count of
    examples). Nothing is remembered: example g of the run is a function of (seed, batch, g).

    There is one tokenizer, learnt from the training splits of all sources; the weights play no
    part in it, so that a sweep over weights prepares its data once. Validation is on all validation
    splits (`val/loss`, by token and not by weight) and on each alone (`val/<name>/loss`).

    A source is any data node as a factory; the mixture gives it the tokenizer and the sizes. A
    file of your own, used as `data=mine`:

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

    `data=mixture data.weights.early=3` changes a weight of the file that comes with Étude.

    Args:
        sources: by name; what makes each of them, given tokenizer, sequence_length and batch.
        weights: by the same names, above zero; they need not sum to one.
        order: of the examples of a source.

    Attributes:
        corpora: what the sources are, by name.

    Raises:
        RequestError: with what the sources refuse.
    """

    sources: dict[str, Callable[..., TextData]]
    weights: dict[str, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.section_names = tuple(sorted(self.sources))  # a mapping's own order means nothing
        self.weights = {name: self.weights[name] for name in self.section_names}
        self.corpora: dict[str, TextData] = {}
        problems: list[Problem] = []
        for name in self.section_names:
            source = self.sources[name]
            if not callable(source):
                hint = f"'~data.sources.{name}' '~data.weights.{name}' leave it out"
                expected = "a data node with its _target_ and _partial_: true"
                problems.append(Problem(f"data.sources.{name}", expected, source, hint))
                continue
            try:  # sizes are the mixture's: the source prepares no windows of its own
                self.corpora[name] = source(
                    tokenizer=self.tokenizer, sequence_length=1, batch=Batch(examples=1)
                )
            except RequestError as error:
                problems += error.problems
            else:
                if "test" in self.corpora[name].splits:
                    expected = "null: a mixture has no split for testing"
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
        told = {name: origin for name, origin in origins.items() if origin}
        return {"sources": told} if told else {}

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
    """Which source each example is from, such that every count stays near its share.

    Example j of a source with weight w (all weights sum to one) is due at time (j + 1/2) / w, and
    the examples come in the order of these times, at equal times the earlier source first. That is
    the method of Webster or Sainte-Laguë for the apportionment of seats (Balinski and Young 1982,
    "Fair representation"), one seat after the other. After m examples of K sources a
    source has given m w of them, up to (1 + K w) / 2.

    Args:
        weights: in any unit, one above zero at least; taken as the decimal numbers that they are
            printed as.
    """

    weights: tuple[float, ...]

    @cached_property
    def units(self) -> tuple[int, ...]:
        """The weights as whole numbers, so that times are compared exactly."""
        exact = [Fraction(repr(float(weight))) for weight in self.weights]
        scale = math.lcm(*(weight.denominator for weight in exact))
        units = [int(weight * scale) for weight in exact]
        return tuple(unit // math.gcd(*units) for unit in units)

    def counts(self, examples: int) -> list[int]:
        """How many of the first `examples` each source gives."""
        # Up to time t a source gives floor(w t + 1/2), and all of K sources t up to K / 2.
        given = sum(unit > 0 for unit in self.units)
        twice, whole = max(2 * examples - given, 0), sum(self.units)
        counts = [(unit * twice + whole) // (2 * whole) for unit in self.units]
        for source in self._after(counts, examples - sum(counts)):
            counts[source] += 1
        return counts

    def sources(self, counts: list[int], number: int) -> list[int]:
        """The sources of the next examples, where each has given as many as `counts` says."""
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
    """The windows of each optimizer step, of several texts that lie in one file.

    The sources of a step's windows are those of `Shares`, shuffled by (seed, step), so that each
    micro-batch and each rank meets all of them. A source's windows come in its own order.

    Args:
        sections: where each source's tokens lie, by name.
        stages: of the run, each from how many examples on, and its weights by name.
        length: targets in a window.
        batch: windows in an optimizer step.
        seed: the run's seed, not negative.
        within: a source's own order, `windows` or `epochs`.
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
        # What was drawn last serves the next steps too; it decides nothing.
        self._latest: list[tuple[int, NDArray[np.int64]]] = [_NOTHING] * len(sections)

    def starts(self, step: int) -> NDArray[np.int64]:
        """The first token of each window of optimizer step `step`, shape (batch,)."""
        return self.windows(step, step * self.batch, self.batch)

    def windows(self, step: int, first: int, count: int) -> NDArray[np.int64]:
        """The same of a step that takes `count` windows, after `first` of all steps before."""
        stage = bisect_right(self.stages, first) - 1
        ends = self.stages[1 : stage + 1]
        shares = self.shares[stage]
        begun = shares.counts(first - self.stages[stage])  # of this stage
        given = list(begun)
        for earlier, start, end in zip(self.shares, self.stages, ends, strict=False):
            given = [*map(sum, zip(given, earlier.counts(end - start), strict=True))]
        keys = round_keys(MIXTURE_STREAM, self.seed, step)
        places = permute(np.arange(count, dtype=np.uint64), count, keys)
        sources = np.array(shares.sources(begun, count))[places.astype(np.int64)]
        starts = np.empty(count, dtype=np.int64)
        for source, before in enumerate(given):
            rows = np.flatnonzero(sources == source)
            starts[rows] = self.begins[source] + self._own(source, before, len(rows))
        return starts

    def _own(self, source: int, first: int, number: int) -> NDArray[np.int64]:
        """Where in its text the examples first, ..., first + number - 1 of a source begin."""
        last = first + max(number, 1) - 1
        chunks = [self._chunk(source, c) for c in range(first // CHUNK, last // CHUNK + 1)]
        return np.concatenate(chunks)[first % CHUNK :][:number]

    def _chunk(self, source: int, chunk: int) -> NDArray[np.int64]:
        if self._latest[source][0] != chunk:
            self._latest[source] = chunk, self.orders[source].starts(chunk)
        return self._latest[source][1]


def _seed_of(name: str, seed: int) -> int:
    # By name, so that a source keeps its windows when others come and go.
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check_names(
    checks: Checks, sources: Mapping[str, object], weights: Mapping[str, float]
) -> None:
    checks.that(bool(sources), "sources", sources, "a source or more, by name")
    for name in sources:
        expected = "a name of letters, digits, _ and -"
        checks.that(_NAME.fullmatch(name) is not None, "sources", name, expected)
        if name not in weights:
            checks.problems.append(Problem(f"weights.{name}", "a weight for this source"))
    for name, weight in weights.items():
        key = f"weights.{name}"
        if not checks.that(name in sources, key, weight, "a source's name", nearest(name, sources)):
            continue
        hint = "a source that gives nothing is left out of sources" if weight == 0 else None
        checks.that(0 < weight < math.inf, key, weight, "a positive number", hint)
