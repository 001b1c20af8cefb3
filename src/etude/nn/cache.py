"""Key-value cache for generation."""

from __future__ import annotations

from torch import Tensor

from etude.errors import InvalidArguments, Problem


class LayerCache:
    """Keys and values of one attention layer, in memory that is allocated once.

    The first `append` allocates the memory, with the dtype and the device of its arguments (under
    autocast, these differ from those of the parameters). For inference only: the memory is
    overwritten in place, so the cache can't be differentiated.

    Args:
        batch: B, the number of sequences.
        capacity: largest number of positions.

    Attributes:
        length: number of positions in the cache.
        memory: keys and values that the cross-attention computes from the encoder's output, of
            shape (B, key-value heads, positions, head dimension); None until they are computed. The
            cross-attention of a layer has its own `LayerCache`.
    """

    def __init__(self, batch: int, capacity: int) -> None:
        self.batch, self.capacity = batch, capacity
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self.memory: tuple[Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Appends the keys and values of T new positions, and returns those of all S positions.

        The arguments have shape (B, G, T, K): batch, key-value heads, positions, head dimension.
        The results are views of the cache, of shape (B, G, S, K).

        Raises:
            InvalidArguments: the capacity is exceeded.
        """
        stop = self.length + k.shape[2]
        if stop > self.capacity:
            expected = f"at most {self.capacity} positions, the capacity of the cache"
            raise InvalidArguments(Problem("cache length", expected, stop))
        if self._keys is None or self._values is None:
            self._keys, self._values = self._allocate(k), self._allocate(v)
        self._keys[:, :, self.length : stop] = k
        self._values[:, :, self.length : stop] = v
        self.length = stop
        return self._keys[:, :, :stop], self._values[:, :, :stop]

    def repeat(self, times: int) -> None:
        """Repeats each sequence `times` times, with the copies next to each other."""
        self.batch *= times
        if self._keys is not None and self._values is not None:
            self._keys = self._repeated(self._keys, times)
            self._values = self._repeated(self._values, times)
        if self.memory is not None:
            k, v = self.memory
            self.memory = (k.repeat_interleave(times, dim=0), v.repeat_interleave(times, dim=0))

    def select(self, rows: Tensor, since: int = 0) -> None:
        """Keeps only the N sequences with the indices `rows`, in this order, as each step of beam
        search requires.

        If N differs from the previous number of sequences, `memory` (the keys and values of the
        encoder's output) is selected in the same way. Otherwise it stays unchanged, because beam
        search then replaces each beam by a beam of the same source text.

        Args:
            rows: (N,), indices of the sequences to keep; an index may occur several times.
            since: first position that is copied if the number of sequences doesn't change. Before
                this position, the replaced and the replacing sequence must be the same. It is
                ignored if the number changes.
        """
        same = len(rows) == self.batch
        since = since if same else 0
        self.batch = len(rows)
        if self._keys is not None and self._values is not None and since < self.length:
            changed = slice(since, self.length)
            selected = [x[:, :, changed].index_select(0, rows) for x in (self._keys, self._values)]
            if not same:
                self._keys, self._values = (self._allocate(x) for x in selected)
            self._keys[:, :, changed], self._values[:, :, changed] = selected
        if self.memory is not None and not same:
            k, v = self.memory
            self.memory = (k.index_select(0, rows), v.index_select(0, rows))

    def _repeated(self, x: Tensor, times: int) -> Tensor:
        y = self._allocate(x)
        y[:, :, : self.length] = x[:, :, : self.length].repeat_interleave(times, dim=0)
        return y

    def _allocate(self, x: Tensor) -> Tensor:
        return x.new_empty(self.batch, x.shape[1], self.capacity, x.shape[3])


class KVCache:
    """Key-value cache of a model: a `LayerCache` for each layer's self-attention, and another for
    each layer's cross-attention.

    Args:
        layers: number of layers.
        batch: B, the number of sequences.
        capacity: largest number of positions.

    Attributes:
        memory_keep: (B, M), false where the encoder's output of M vectors, which the
            cross-attention attends to, is padding; None if there is no padding.
    """

    def __init__(self, layers: int, batch: int, capacity: int) -> None:
        self.layers = [LayerCache(batch, capacity) for _ in range(layers)]
        self.across = [LayerCache(batch, 0) for _ in range(layers)]
        self.memory_keep: Tensor | None = None

    @property
    def length(self) -> int:
        """The number of positions in the cache."""
        return self.layers[-1].length

    def repeat(self, times: int) -> None:
        """Repeats each sequence `times` times, with the copies next to each other."""
        for layer in (*self.layers, *self.across):
            layer.repeat(times)
        if self.memory_keep is not None:
            self.memory_keep = self.memory_keep.repeat_interleave(times, dim=0)

    def select(self, rows: Tensor, since: int = 0) -> None:
        """Keeps only the sequences with the indices `rows` (N,); see `LayerCache.select`."""
        if self.memory_keep is not None and len(rows) != len(self.memory_keep):
            self.memory_keep = self.memory_keep.index_select(0, rows)
        for layer in (*self.layers, *self.across):
            layer.select(rows, since)

    def nbytes(self) -> int:
        """Returns the size in bytes of the memory that all layers have allocated."""
        tensors = [x for layer in self.layers for x in (layer._keys, layer._values)]
        tensors += [x for layer in self.across for x in layer.memory or ()]
        return sum(x.nbytes for x in tensors if x is not None)
