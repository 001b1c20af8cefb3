"""Assignment of examples to optimizer steps, which depends on the seed and the lengths.

An epoch reads each example once. Its examples are shuffled, then sorted by length within buckets of
several steps and divided into steps, so that batches need little padding; then the steps are
shuffled. With buckets of one step, the examples are not sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from etude.data.columns import Numbers
from etude.data.order import permute, round_keys

EXAMPLES_STREAM = 0x45584D50
STEPS_STREAM = 0x53544550
MIN_BUCKET_EXAMPLES = 4096  # smallest bucket if a step is a number of tokens


@dataclass(frozen=True)
class Epoch:
    """Examples of an epoch, in the order in which its steps read them.

    Attributes:
        examples: index of each example; those of the first step come first.
        ends: for each step, the position after its last example in `examples`.
    """

    examples: Numbers
    ends: Numbers

    def __len__(self) -> int:
        return len(self.ends)

    def step(self, index: int) -> Numbers:
        """Returns the indices of the examples in one step of this epoch.

        Args:
            index: number of the step within the epoch, from 0.
        """
        return self.examples[self.ends[index - 1] if index else 0 : self.ends[index]]


class ExampleBatches:
    """Assignment of examples to each optimizer step of a run.

    Args:
        lengths: number of positions of each example.
        seed: seed of the run.
        examples: number of examples per step; None if `tokens` is set. One step of each epoch, at
            any place, has fewer if the number of all examples is not a multiple of `examples`.
        tokens: maximum number of positions per step, including padding; used if `examples` is None.
            A longer example is a step by itself.
        packed: whether several examples are packed into one sequence; `tokens` then counts only
            positions that are not padding.
        bucket_steps: number of steps whose examples are sorted by length together.
    """

    def __init__(
        self,
        lengths: Numbers,
        *,
        seed: int,
        examples: int | None,
        tokens: int | None,
        bucket_steps: int,
        packed: bool = False,
    ) -> None:
        self.lengths, self.seed, self.bucket_steps = np.asarray(lengths), seed, bucket_steps
        self.examples, self.tokens, self.packed = examples, tokens, packed
        self._before: list[int] = [0]  # steps before each epoch
        self._latest: tuple[int, Epoch] | None = None

    def step(self, number: int) -> Numbers:
        """Returns the indices of the examples of optimizer step `number`.

        Steps are counted from 0 over all epochs. The indices have the order in which the step reads
        the examples.
        """
        if self.examples is not None:
            epoch, index = divmod(number, self.steps_per_epoch)
            return self._epoch(epoch).step(index)
        while self._before[-1] <= number:
            self._before.append(self._before[-1] + len(self._epoch(len(self._before) - 1)))
        epoch = int(np.searchsorted(self._before, number, side="right")) - 1
        return self._epoch(epoch).step(number - self._before[epoch])

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps per epoch.

        If `tokens` limits the steps, epochs can have different numbers of steps. The property then
        is the number of steps in the first epoch.
        """
        if self.examples is not None:
            return -(-len(self.lengths) // self.examples)
        return len(self._epoch(0))

    def _epoch(self, number: int) -> Epoch:
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self._plan_epoch(number)
        return self._latest[1]

    def _plan_epoch(self, epoch: int) -> Epoch:
        total = len(self.lengths)
        positions = np.arange(total, dtype=np.uint64)
        keys = round_keys(EXAMPLES_STREAM, self.seed, epoch)
        shuffled = permute(positions, total, keys).astype(np.int64)
        if self.examples is not None:
            bucket = self.examples * self.bucket_steps
        else:
            assert self.tokens is not None
            mean = max(1, int(self.lengths.mean()))
            bucket = max(1, self.tokens // mean) * self.bucket_steps
            bucket = max(MIN_BUCKET_EXAMPLES, bucket) if self.bucket_steps > 1 else total
        if self.bucket_steps > 1:
            shuffled = shuffled[np.lexsort((self.lengths[shuffled], positions // bucket))]
        starts = self._step_starts(shuffled, bucket)
        steps = [*np.split(shuffled, starts[1:])]
        keys = round_keys(STEPS_STREAM, self.seed, epoch)
        order = permute(np.arange(len(steps), dtype=np.uint64), len(steps), keys).astype(np.int64)
        steps = [steps[index] for index in order]
        return Epoch(np.concatenate(steps), np.cumsum([len(step) for step in steps]))

    def _step_starts(self, order: Numbers, bucket: int) -> list[int]:
        """Divides the examples of an epoch into steps; returns where in `order` each step begins.

        Args:
            order: index of each example of the epoch, sorted by length within buckets.
            bucket: number of examples in a bucket. If `tokens` limits the steps, all examples of a
                step are in the same bucket.
        """
        if self.examples is not None:
            return list(range(0, len(order), self.examples))
        assert self.tokens is not None
        lengths, starts, first = self.lengths[order], [], 0
        while first < len(order):
            starts.append(first)
            end = min(len(order), (first // bucket + 1) * bucket)
            # padded size grows with each example: find the first one that exceeds the limit
            candidates = lengths[first : min(end, first + self.tokens)]
            longest = np.maximum.accumulate(candidates)
            positions = longest * np.arange(1, len(longest) + 1)
            if self.packed:
                positions = np.cumsum(candidates)
            first += max(1, int(np.searchsorted(positions, self.tokens, side="right")))
        return starts
