"""Text that is read on while a run trains: tokenised on the way, and never stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from etude.data.columns import Column
from etude.data.curriculum import Sizes, Stages
from etude.data.module import Batch
from etude.data.order import ORDERS, permute, round_keys
from etude.data.places import Place, Reading, occurrences
from etude.data.prepare import TOKENS, write_text
from etude.data.splits import Document, Part, Split
from etude.data.steps import MicroBatch, Share, WindowSteps
from etude.data.store import Store
from etude.data.text import TextData, of_source
from etude.data.tokenizer import Tokenizer
from etude.data.writing import encoded_passages
from etude.errors import Checks, Problem, RequestError

STREAM = 0x5354524D
POSITION = "stream"
"""The key of a micro-batch that says where the stream was."""


class Position(NamedTuple):
    """A place in the stream: the next token.

    Attributes:
        block: the number of the block of windows that begins there.
        epoch: how often all documents were read before.
        document: of the epoch.
        token: of the document, the separator before it included.
    """

    block: int = 0
    epoch: int = 0
    document: int = 0
    token: int = 0


@dataclass(kw_only=True, eq=False)
class Streamed(TextData):
    """A corpus whose training documents are read in order, one epoch after the other, while the run
    trains; nothing of them is stored. Validation is prepared as usual.

    The stream is cut into windows that follow each other: each token is a target once an epoch.
    `shuffle` windows at a time are a block, whose order is a function of (seed, block), so a step
    is a function of (seed, step) as with all data. A checkpoint holds where the stream's block
    begins; a run that goes on reads from there.

    Args:
        source: the corpus: a data node as a factory, as for a mixture's sources.
        shuffle: windows in a block; 1 keeps the order of the stream.
        learn_from: training documents that the tokenizer learns from, the first ones; a tokenizer
            from files reads none.
        workers: 0, or 1 to read ahead.
    """

    source: Callable[..., TextData]
    shuffle: int = 1024
    learn_from: int = 10_000

    position: Position = field(default=Position(), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.source):
            expected = "a data node with its _target_ and _partial_: true"
            raise RequestError(Problem("data.source", expected, self.source))
        self.corpus = self.source(
            tokenizer=self.tokenizer, sequence_length=1, batch=Batch(examples=1)
        )
        if self.corpus.section_names:
            expected = "one corpus: the sources of a mixture are not mixed in a stream"
            raise RequestError(Problem("data.source", expected, type(self.corpus).__name__))

    def validate(self, checks: Checks) -> None:
        super().validate(checks)
        checks.positive(shuffle=self.shuffle, learn_from=self.learn_from)
        expected = "0 or 1: the stream is read by one process"
        checks.that(self.workers in (0, 1), "workers", self.workers, expected)
        checks.that(self.order == "windows", "order", self.order, "windows: see `shuffle`")
        none = self.curriculum is None
        checks.that(none, "curriculum", self.curriculum, "null: a stream has none")

    # -- the corpus ---------------------------------------------------------------------------

    @property
    def splits(self) -> tuple[Split, ...]:
        return self.corpus.splits

    @property
    def evaluated_splits(self) -> tuple[str, ...]:
        return self.splits[1:]

    def documents(self, split: Split) -> Iterator[str]:
        return self.corpus.documents(split)

    def sourced(self, split: Split) -> Iterator[Document]:
        return self.corpus.sourced(split)

    def content_fingerprint(self) -> str:
        return self.corpus.content_fingerprint()

    def content_files(self) -> list[Path] | None:
        return self.corpus.content_files()

    def split_settings(self) -> dict[str, object]:
        learnt = {} if self.recipe.fingerprint() else {"learn_from": self.learn_from}
        return {"corpus": "streamed", "source": self.corpus.split_settings(), **learnt}

    def origin(self) -> dict[str, object]:
        return self.corpus.origin()

    def check(self) -> None:
        try:
            self.corpus.check()
        except RequestError as error:
            problems = (of_source("data.source", each) for each in error.problems)
            raise RequestError(problems) from error

    # -- what is stored: the tokenizer, and validation ----------------------------------------

    def parts(self) -> dict[str, Part]:
        def passages(split: Split) -> Iterator[tuple[int, str]]:
            found = self.corpus.passages(split)
            if split != "train":
                return found
            return itertools.takewhile(lambda each: each[0] < self.learn_from, found)

        return {"": passages}

    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        write_text(folder, self.parts(), self.splits[1:], self.recipe, identity)

    def opened(self, store: Store) -> None:
        if problems := [*self.no_separator(store), *self.too_small(store)]:
            raise RequestError(problems)

    # -- the stream ---------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> float:
        """Not known: a stream is not counted before it is read."""
        return math.inf

    def misfits(self, processes: int, max_epochs: float | None = None) -> Iterator[Problem]:
        yield from super().misfits(processes, max_epochs)
        if max_epochs is not None:
            hint = "trainer.max_steps says how long the run is"
            expected = "null: the length of a stream is not known"
            yield Problem("trainer.max_epochs", expected, max_epochs, hint)

    def assembly(self, share: Share) -> StreamSteps:
        return StreamSteps(
            Column(self.store.folder / f"val.{TOKENS}"),
            ORDERS["windows"](2, 1, 1, share.seed),
            share,
            length=self.sequence_length,
            sizes=Sizes(self.examples_per_step),
            lengths=Stages(self.sequence_length),
            separator=self.tokenizer_.end_of_text if self.separate_documents else None,
            objective=self.objective,
            data=self,
        )

    def stream(self, start: Position) -> Iterator[tuple[Position, list[int]]]:
        """The ids of the training documents from a position on, for ever, in pieces, each with
        where it begins.

        Raises:
            RequestError: an epoch has no token.
        """
        end = self.tokenizer_.end_of_text
        for epoch in itertools.count(start.epoch):
            first = start if epoch == start.epoch else Position(epoch=epoch)
            some = first.document > 0 or first.token > 0
            current, token = -1, 0
            for document, ids in _passages(self.corpus, self.tokenizer_, first.document):
                if document != current:
                    current, token = document, 0
                    ids = [end, *ids] if end is not None and (epoch or document) else ids
                skipped = max(0, first.token - token) if document == first.document else 0
                if len(ids) > skipped:
                    some = True
                    yield Position(0, epoch, document, token + skipped), ids[skipped:]
                token += len(ids)
            if not some:
                expected = "training documents with a token"
                raise RequestError(Problem("data.source", expected))

    def places_of(self, text: str) -> Iterator[Place]:
        for number, (_, document) in self._documents():
            if text in document:
                found, _ = occurrences(document, text, self.tokenizer_)
                separator = int(number > 0 and self.tokenizer_.end_of_text is not None)
                for first, end in found:
                    yield Place(number, separator + first, separator + end)

    # -- where it is --------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Notes where the stream was when a step was put together."""
        for micro in batch if isinstance(batch, list) else ():
            self.position = Position(*micro.pop(POSITION, self.position))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream's present block begins."""
        return self.position._asdict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = Position(**state_dict)


@dataclass
class StreamSteps(WindowSteps):
    """Optimizer steps of a stream; see `WindowSteps`.

    They are made in order. One that lies before what was read last is read from the beginning.

    Args:
        data: whose stream it is, and who knows where to begin.
    """

    data: Streamed = field(kw_only=True)

    def __post_init__(self) -> None:
        self._block: Block | None = None
        self._rest: Iterator[Block] = iter(())
        self._latest: tuple[int, list[tuple[Block, int]]] = (-1, [])

    def step(self, number: int) -> list[MicroBatch]:
        found = super().step(number)
        position = tuple(self._windows(number)[0][0].position)
        told: list[Any] = [{**micro, POSITION: position} for micro in found]
        return told

    def rows(self, number: int, length: int, windows: slice) -> NDArray[Any]:
        return np.stack([block.ids[row] for block, row in self._windows(number)[windows]])

    def places(self, number: int) -> list[list[Place]]:
        return [block.places(row) for block, row in self._windows(number)]

    def readings(self, places: Collection[Place], steps: Iterable[int]) -> Iterator[Reading]:
        by_document: dict[int, list[Place]] = {}
        for place in places:
            by_document.setdefault(place.document, []).append(place)
        for number in steps:
            for example, inside in enumerate(self.places(number)):
                for each in inside:
                    for place in by_document.get(each.document, ()):
                        first, end = place.first or 0, place.end or 0
                        if (each.first or 0) < end and first < (each.end or 0):
                            whole = (each.first or 0) <= first and end <= (each.end or 0)
                            yield Reading(number, example, place, whole)

    def _windows(self, number: int) -> list[tuple[Block, int]]:
        """The windows of a step: a block, and the window's row in it. Those of the latest are kept,
        since the stream may have gone on to another block within it.
        """
        if self._latest[0] == number:
            return self._latest[1]
        size, first = self.data.shuffle, number * self.sizes.usual
        found = []
        for index in range(first, first + self.sizes.usual):
            block = self._of(index)
            found.append((block, int(block.order[index % size])))
        self._latest = number, found
        return found

    def _of(self, index: int) -> Block:
        """The block of a window, by its number in the run."""
        wanted = index // self.data.shuffle
        if self._block is None or self._block.position.block > wanted:
            start = self.data.position
            begin = start if start.block <= wanted else Position()
            self._rest = self._blocks(begin)
            self._block = next(self._rest)
        while self._block.position.block < wanted:
            self._block = next(self._rest)
        return self._block

    def _blocks(self, start: Position) -> Iterator[Block]:
        """The blocks from one that begins at a position on, for ever."""
        width = self.width(self.length)
        stride = width - (self.objective is None)  # the last target is the next window's first
        size = self.data.shuffle
        needed = stride * size + width - stride
        held: list[tuple[Position, NDArray[np.int64]]] = []
        count, block = 0, start.block
        for position, ids in self.data.stream(start):
            held.append((position, np.array(ids, dtype=np.int64)))
            count += len(ids)
            while count >= needed:
                keys = round_keys(STREAM, self.share.seed, block)
                order = permute(np.arange(size, dtype=np.uint64), size, keys).astype(np.int64)
                tokens = np.concatenate([each for _, each in held])[:needed]
                windows = np.lib.stride_tricks.sliding_window_view(tokens, width)[::stride]
                begin = held[0][0]._replace(block=block)
                yield Block(begin, windows, order, list(held), stride, width)
                held = _after(held, stride * size)
                count -= stride * size
                block += 1


@dataclass
class Block:
    """Windows that follow each other in the stream.

    Attributes:
        position: where the first begins.
        ids: (windows, width).
        order: in which they are read.
        pieces: the ids of documents that they were cut from, each with where it begins.
        stride, width: of the windows.
    """

    position: Position
    ids: NDArray[np.int64]
    order: NDArray[np.int64]
    pieces: list[tuple[Position, NDArray[np.int64]]]
    stride: int
    width: int

    def places(self, row: int) -> list[Place]:
        """Where a window's tokens come from."""
        first, found, at = row * self.stride, [], 0
        for position, ids in self.pieces:
            low, high = max(first - at, 0), min(first + self.width - at, len(ids))
            if low < high:
                begin = position.token
                found.append(Place(position.document, begin + low, begin + high))
            at += len(ids)
        return found


def _after(
    held: list[tuple[Position, NDArray[np.int64]]], count: int
) -> list[tuple[Position, NDArray[np.int64]]]:
    """The pieces without their first `count` ids."""
    for number, (position, ids) in enumerate(held):
        if count < len(ids):
            later = position._replace(token=position.token + count)
            return [(later, ids[count:]), *held[number + 1 :]]
        count -= len(ids)
    return []


def _passages(
    corpus: TextData, tokenizer: Tokenizer, first: int
) -> Iterator[tuple[int, list[int]]]:
    """The ids of a corpus's training documents that have text, from one on, in pieces, each with
    the document's number. Those before are read and not encoded.
    """
    for batch, encoded in encoded_passages(_from(corpus, first), tokenizer):
        for (document, _), ids in zip(batch, encoded, strict=True):
            yield document, ids


def _from(corpus: TextData, first: int) -> Iterator[tuple[int, str]]:
    """The passages of these documents."""
    number, known = -1, None
    for document, text in corpus.passages("train"):
        if not text:
            continue
        if document != known:
            number, known = number + 1, document
        if number >= first:
            yield number, text
