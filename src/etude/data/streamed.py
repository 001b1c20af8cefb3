"""Text that is tokenized while a run trains, and never stored."""

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
from etude.data.origins import DocumentSpan, SpanRead, find_occurrences
from etude.data.prepare import TOKENS, write_text
from etude.data.split_writer import encoded_passages
from etude.data.splits import Document, Part, Split
from etude.data.steps import MicroBatch, Share, WindowSteps
from etude.data.store import Store
from etude.data.text import TextData, of_source
from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, Problem, RequestError

STREAM = 0x5354524D
POSITION = "stream"
"""Key of a micro-batch under which the position in the stream is stored."""


class StreamPosition(NamedTuple):
    """Position in the stream, given by the next token to read.

    Attributes:
        block: number of the block (group of consecutive windows) that begins at this position, from
            0.
        epoch: number of complete passes over all documents before this position.
        document: number of the document in the epoch, from 0.
        token: position of the token in the document; the separator before the document, if there
            is one, is token 0.
    """

    block: int = 0
    epoch: int = 0
    document: int = 0
    token: int = 0


@dataclass(kw_only=True, eq=False)
class Streamed(TextData):
    """Corpus whose training documents are tokenized during training, in order, epoch after epoch.

    Training text is not stored. The validation split is prepared and stored as for other corpora.

    The stream is cut into consecutive windows: each token is a target once per epoch. `shuffle`
    consecutive windows form a block, and are shuffled in it. Their order depends only on (seed,
    block), so a step depends only on (seed, step) as with all data. A checkpoint contains the
    position of the stream's current block; a resumed run reads from there.

    Args:
        source: config of the corpus with `_partial_: true`, as for a mixture's sources.
        shuffle: number of windows in a block; 1 keeps the order of the stream.
        learn_from: the tokenizer is trained on this number of documents, from the beginning of the
            corpus; unused for a pretrained tokenizer.
        workers: 0, or 1 to read ahead in a separate process.
        order: only `windows`; `shuffle` sets the order of a stream.
    """

    source: Callable[..., TextData]
    shuffle: int = 1024
    learn_from: int = 10_000

    position: StreamPosition = field(default=StreamPosition(), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.source):
            expected = "a config with _partial_: true and a data class as _target_"
            raise RequestError(Problem("data.source", expected, self.source))
        self.corpus = self.source(
            tokenizer=self.tokenizer, sequence_length=1, batch=Batch(examples=1)
        )
        if self.corpus.section_names:
            expected = "one corpus (a stream does not support mixtures)"
            raise RequestError(Problem("data.source", expected, type(self.corpus).__name__))

    def validate(self, checks: Checks) -> None:
        super().validate(checks)
        checks.positive(shuffle=self.shuffle, learn_from=self.learn_from)
        expected = "0 or 1 (only one process can read a stream)"
        checks.that(self.workers in (0, 1), "workers", self.workers, expected)
        expected = "windows (for a stream, only data.shuffle sets the order)"
        checks.that(self.order == "windows", "order", self.order, expected)
        is_unset = self.curriculum is None
        expected = "null (streamed data does not support a curriculum)"
        checks.that(is_unset, "curriculum", self.curriculum, expected)

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
        trained_on = {} if self.recipe.fingerprint() else {"learn_from": self.learn_from}
        return {"corpus": "streamed", "source": self.corpus.split_settings(), **trained_on}

    def origin(self) -> dict[str, object]:
        return self.corpus.origin()

    def check(self) -> None:
        try:
            self.corpus.check()
        except RequestError as error:
            problems = (of_source("data.source", each) for each in error.problems)
            raise RequestError(problems) from error

    # -- stored: the tokenizer, and the validation split -------------------------------------

    def parts(self) -> dict[str, Part]:
        def passages(split: Split) -> Iterator[tuple[int, str]]:
            pairs = self.corpus.passages(split)
            if split != "train":
                return pairs
            return itertools.takewhile(lambda each: each[0] < self.learn_from, pairs)

        return {"": passages}

    def write(self, folder: Path, identity: dict[str, Any]) -> None:
        write_text(folder, self.parts(), self.splits[1:], self.recipe, identity)

    def opened(self, store: Store) -> None:
        if problems := [*self.separator_problems(store), *self.size_problems(store)]:
            raise RequestError(problems)

    # -- the stream ---------------------------------------------------------------------------

    @property
    def steps_per_epoch(self) -> float:
        """Number of optimizer steps in an epoch: infinite, since a stream's length is unknown."""
        return math.inf

    def misfits(self, processes: int, max_epochs: float | None = None) -> Iterator[Problem]:
        yield from super().misfits(processes, max_epochs)
        if max_epochs is not None:
            hint = "the length of a stream is unknown; set trainer.max_steps instead"
            expected = "null"
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

    def stream(self, start: StreamPosition) -> Iterator[tuple[StreamPosition, list[int]]]:
        """Yields the token ids of the training documents, in pieces, from a position on.

        A piece is a pair: the position of its first id, and the ids. The field `block` of this
        position is not set, and is 0. The stream is endless: it repeats the documents epoch after
        epoch.

        Args:
            start: position of the first id to yield.

        Raises:
            RequestError: if an epoch has no token.
        """
        end = self.tokenizer_.end_of_text
        for epoch in itertools.count(start.epoch):
            first = start if epoch == start.epoch else StreamPosition(epoch=epoch)
            has_tokens = first.document > 0 or first.token > 0
            current, token = -1, 0
            for document, ids in _encoded_passages(self.corpus, self.tokenizer_, first.document):
                if document != current:
                    current, token = document, 0
                    ids = [end, *ids] if end is not None and (epoch or document) else ids
                skipped = max(0, first.token - token) if document == first.document else 0
                if len(ids) > skipped:
                    has_tokens = True
                    yield StreamPosition(0, epoch, document, token + skipped), ids[skipped:]
                token += len(ids)
            if not has_tokens:
                expected = "training documents with at least one token"
                raise RequestError(Problem("data.source", expected))

    def places_of(self, text: str) -> Iterator[DocumentSpan]:
        for number, (_, document) in self._documents():
            if text in document:
                spans, _ = find_occurrences(document, text, self.tokenizer_)
                separator = int(number > 0 and self.tokenizer_.end_of_text is not None)
                for first, end in spans:
                    yield DocumentSpan(number, separator + first, separator + end)

    # -- position ----------------------------------------------------------------------------

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Removes the stream's position from a batch, and keeps it for checkpoints (`position`).

        Returns the batch, which is changed in place.

        Args:
            batch: list of the micro-batches of a step; other batches are not changed.
            dataloader_idx: not used.
        """
        for micro in batch if isinstance(batch, list) else ():
            self.position = StreamPosition(*micro.pop(POSITION, self.position))
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the position of the stream's current block as a dict, for a checkpoint."""
        return self.position._asdict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position = StreamPosition(**state_dict)


@dataclass
class StreamSteps(WindowSteps):
    """Assembler of optimizer steps from a stream of text; see `WindowSteps`.

    Steps are assembled in order. If a step is earlier than the last assembled one, the stream is
    read again: from the starting position, or from the beginning if the step is before that.

    Args:
        data: the data module, which contains the stream and its starting position.
    """

    data: Streamed = field(kw_only=True)

    def __post_init__(self) -> None:
        self._block: StreamBlock | None = None
        self._rest: Iterator[StreamBlock] = iter(())
        self._latest: tuple[int, list[tuple[StreamBlock, int]]] = (-1, [])

    def step(self, number: int) -> list[MicroBatch]:
        micro_batches = super().step(number)
        position = tuple(self._windows(number)[0][0].position)
        with_position: list[Any] = [{**micro, POSITION: position} for micro in micro_batches]
        return with_position

    def rows(self, number: int, length: int, windows: slice) -> NDArray[Any]:
        return np.stack([block.ids[row] for block, row in self._windows(number)[windows]])

    def places(self, number: int) -> list[list[DocumentSpan]]:
        return [block.places(row) for block, row in self._windows(number)]

    def readings(
        self, places: Collection[DocumentSpan], steps: Iterable[int]
    ) -> Iterator[SpanRead]:
        by_document: dict[int, list[DocumentSpan]] = {}
        for place in places:
            by_document.setdefault(place.document, []).append(place)
        for number in steps:
            for example, spans in enumerate(self.places(number)):
                for span in spans:
                    for place in by_document.get(span.document, ()):
                        first, end = place.first or 0, place.end or 0
                        if (span.first or 0) < end and first < (span.end or 0):
                            whole = (span.first or 0) <= first and end <= (span.end or 0)
                            yield SpanRead(number, example, place, whole)

    def _windows(self, number: int) -> list[tuple[StreamBlock, int]]:
        """Returns the windows of a step, as pairs (block, row of the window in the block's `ids`).

        A block contains consecutive windows of the stream. The windows of the latest step are
        cached, since a step may extend over several blocks, and only the last one is kept.
        """
        if self._latest[0] == number:
            return self._latest[1]
        size, first = self.data.shuffle, number * self.sizes.usual
        windows = []
        for index in range(first, first + self.sizes.usual):
            block = self._block_of(index)
            windows.append((block, int(block.order[index % size])))
        self._latest = number, windows
        return windows

    def _block_of(self, index: int) -> StreamBlock:
        """Returns the block (consecutive windows, shuffled together) that contains a window.

        Args:
            index: number of the window in the run, from 0.
        """
        number = index // self.data.shuffle
        if self._block is None or self._block.position.block > number:
            start = self.data.position
            begin = start if start.block <= number else StreamPosition()
            self._rest = self._blocks(begin)
            self._block = next(self._rest)
        while self._block.position.block < number:
            self._block = next(self._rest)
        return self._block

    def _blocks(self, start: StreamPosition) -> Iterator[StreamBlock]:
        """Yields the blocks of consecutive windows from the position `start` on, endlessly."""
        width = self.width(self.length)
        stride = width - (self.objective is None)  # the last target is the next window's first
        size = self.data.shuffle
        needed = stride * size + width - stride
        pieces: list[tuple[StreamPosition, NDArray[np.int64]]] = []
        count, block = 0, start.block
        for position, ids in self.data.stream(start):
            pieces.append((position, np.array(ids, dtype=np.int64)))
            count += len(ids)
            while count >= needed:
                keys = round_keys(STREAM, self.share.seed, block)
                order = permute(np.arange(size, dtype=np.uint64), size, keys).astype(np.int64)
                tokens = np.concatenate([each for _, each in pieces])[:needed]
                windows = np.lib.stride_tricks.sliding_window_view(tokens, width)[::stride]
                begin = pieces[0][0]._replace(block=block)
                yield StreamBlock(begin, windows, order, list(pieces), stride, width)
                pieces = _drop_first(pieces, stride * size)
                count -= stride * size
                block += 1


@dataclass
class StreamBlock:
    """Block of consecutive windows of the stream, which are read in shuffled order.

    Attributes:
        position: the position of the first window in the stream.
        ids: token ids of the windows, in the stream's order; shape (number of windows, `width`).
        order: numbers of the rows of `ids`, in the order in which the windows are read.
        pieces: the token ids from which the windows were cut, as pairs (position, ids).
        stride: number of ids from the start of a window to the start of the next.
        width: number of ids of a window.
    """

    position: StreamPosition
    ids: NDArray[np.int64]
    order: NDArray[np.int64]
    pieces: list[tuple[StreamPosition, NDArray[np.int64]]]
    stride: int
    width: int

    def places(self, row: int) -> list[DocumentSpan]:
        """Returns the document spans that a window contains, in order.

        Args:
            row: number of the window's row in `ids`.
        """
        first, spans, at = row * self.stride, [], 0
        for position, ids in self.pieces:
            low, high = max(first - at, 0), min(first + self.width - at, len(ids))
            if low < high:
                begin = position.token
                spans.append(DocumentSpan(position.document, begin + low, begin + high))
            at += len(ids)
        return spans


def _drop_first(
    pieces: list[tuple[StreamPosition, NDArray[np.int64]]], count: int
) -> list[tuple[StreamPosition, NDArray[np.int64]]]:
    """Returns `pieces` without the first `count` token ids, counted over all pieces.

    The position of the first remaining piece is that of its first remaining id.

    Args:
        pieces: pairs of a position and the token ids from there on.
        count: number of ids to remove.
    """
    for number, (position, ids) in enumerate(pieces):
        if count < len(ids):
            position_after = position._replace(token=position.token + count)
            return [(position_after, ids[count:]), *pieces[number + 1 :]]
        count -= len(ids)
    return []


def _encoded_passages(
    corpus: TextData, tokenizer: Tokenizer, first: int
) -> Iterator[tuple[int, list[int]]]:
    """Yields the training documents from number `first` on, as pairs (document number, token ids).

    A long document gives several pairs. Documents without text are skipped and not counted.
    Documents before `first` are not encoded.
    """
    for batch, encoded in encoded_passages(_passages_from(corpus, first), tokenizer):
        for (document, _), ids in zip(batch, encoded, strict=True):
            yield document, ids


def _passages_from(corpus: TextData, first: int) -> Iterator[tuple[int, str]]:
    """Yields pairs (document number, piece of its text), from training document `first` on.

    Documents with text are numbered from 0; those without text are skipped and not counted.
    """
    number, current = -1, None
    for document, text in corpus.passages("train"):
        if not text:
            continue
        if document != current:
            number, current = number + 1, document
        if number >= first:
            yield number, text
