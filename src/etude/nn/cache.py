"""Keys and values of the tokens that a model has already read."""

from __future__ import annotations

from torch import Tensor

from etude.errors import InvalidArguments, Problem


class LayerCache:
    """One attention layer's keys and values, in memory that is taken once.

    The memory is taken at the first `append`, in the precision and on the device of what comes
    (under autocast these are not the parameters'). Made for inference: it is overwritten in
    place, so nothing can be differentiated through it.

    Args:
        batch: B.
        capacity: the largest number of positions it will hold.

    Attributes:
        length: the number of positions it holds.
        memory: keys and values (B, G, S, K) of what a cross-attention reads, once known. A layer
            has a cache for its cross-attention apart from that of its self-attention.
    """

    def __init__(self, batch: int, capacity: int) -> None:
        self.batch, self.capacity = batch, capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self.memory: tuple[Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values (B, G, T, K); returns all S of them (B, G, S, K), as views.

        Raises:
            InvalidArguments: where there is no room for them.
        """
        stop = self.length + k.shape[2]
        if stop > self.capacity:
            raise InvalidArguments(Problem("cache", f"at most {self.capacity} positions", stop))
        if self._keys is None or self._values is None:
            self._keys, self._values = self._room(k), self._room(v)
        self._keys[:, :, self.length : stop] = k
        self._values[:, :, self.length : stop] = v
        self.length = stop
        return self._keys[:, :, :stop], self._values[:, :, :stop]

    def repeat(self, times: int) -> None:
        """Makes each sequence `times` sequences, which stand together."""
        self.batch *= times
        if self._keys is not None and self._values is not None:
            self._keys = self._copies(self._keys, times)
            self._values = self._copies(self._values, times)
        if self.memory is not None:
            k, v = self.memory
            self.memory = (k.repeat_interleave(times, dim=0), v.repeat_interleave(times, dim=0))

    def select(self, rows: Tensor, since: int = 0) -> None:
        """Keeps the sequences that `rows` (B',) names, in its order; a beam search's step.

        The memory stays where it is if the number of sequences does: then a beam takes over
        another of the same source.

        Args:
            since: where the number of sequences stays, the positions before it do too: there the
                sequence that goes and the one that takes its place are the same.
        """
        same = len(rows) == self.batch
        since = since if same else 0
        self.batch = len(rows)
        if self._keys is not None and self._values is not None and since < self.length:
            there = slice(since, self.length)
            kept = [x[:, :, there].index_select(0, rows) for x in (self._keys, self._values)]
            if not same:
                self._keys, self._values = (self._room(x) for x in kept)
            self._keys[:, :, there], self._values[:, :, there] = kept
        if self.memory is not None and not same:
            k, v = self.memory
            self.memory = (k.index_select(0, rows), v.index_select(0, rows))

    def _copies(self, x: Tensor, times: int) -> Tensor:
        room = self._room(x)
        room[:, :, : self.length] = x[:, :, : self.length].repeat_interleave(times, dim=0)
        return room

    def _room(self, x: Tensor) -> Tensor:
        return x.new_empty(self.batch, x.shape[1], self.capacity, x.shape[3])


class KVCache:
    """A `LayerCache` for each layer of a model, and another for its cross-attention.

    Args:
        layers: the model's number of layers.
        batch: B.
        capacity: the largest number of positions it will hold.

    Attributes:
        memory_keep: (B, M), false where the memory of the cross-attention is padding; or None.
    """

    def __init__(self, layers: int, batch: int, capacity: int) -> None:
        self.layers = [LayerCache(batch, capacity) for _ in range(layers)]
        self.across = [LayerCache(batch, 0) for _ in range(layers)]
        self.memory_keep: Tensor | None = None

    @property
    def length(self) -> int:
        """The number of positions it holds."""
        return self.layers[-1].length

    def repeat(self, times: int) -> None:
        """Makes each sequence `times` sequences, which stand together."""
        for layer in (*self.layers, *self.across):
            layer.repeat(times)
        if self.memory_keep is not None:
            self.memory_keep = self.memory_keep.repeat_interleave(times, dim=0)

    def select(self, rows: Tensor, since: int = 0) -> None:
        """Keeps the sequences that `rows` (B',) names; see `LayerCache.select`."""
        if self.memory_keep is not None and len(rows) != len(self.memory_keep):
            self.memory_keep = self.memory_keep.index_select(0, rows)
        for layer in (*self.layers, *self.across):
            layer.select(rows, since)

    def nbytes(self) -> int:
        """Bytes taken, over all layers."""
        tensors = [x for layer in self.layers for x in (layer._keys, layer._values)]
        tensors += [x for layer in self.across for x in layer.memory or ()]
        return sum(x.nbytes for x in tensors if x is not None)
