from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from etude.errors import InvalidArguments
from etude.nn.cache import KVCache, LayerCache


@given(pieces=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_holds_what_was_appended_in_memory_taken_once(pieces):
    k, v = torch.randn(2, 2, 3, sum(pieces), 4)
    cache, stop, places = LayerCache(batch=2, capacity=sum(pieces) + 3), 0, set()
    for size in pieces:
        start, stop = stop, stop + size
        keys, values = cache.append(k[:, :, start:stop], v[:, :, start:stop])
        assert torch.equal(keys, k[:, :, :stop])
        assert torch.equal(values, v[:, :, :stop])
        assert cache.length == stop
        places.add((keys.data_ptr(), values.data_ptr()))
    assert len(places) == 1


def test_refuses_more_than_its_capacity_and_stays_as_it_was():
    cache = LayerCache(batch=1, capacity=4)
    x = torch.ones(1, 1, 3, 2)
    cache.append(x, x)
    with pytest.raises(InvalidArguments, match="at most 4 positions"):
        cache.append(x, x)
    assert cache.length == 3
    keys, _ = cache.append(2 * x[:, :, :1], x[:, :, :1])
    assert keys[0, 0, :, 0].tolist() == [1, 1, 1, 2]


def test_layers_are_separate_and_follow_the_precision_of_what_comes():
    cache = KVCache(layers=3, batch=2, capacity=8)
    assert (cache.length, cache.nbytes()) == (0, 0)
    x = torch.ones(2, 1, 5, 4, dtype=torch.bfloat16)
    for layer in cache.layers:
        keys, _ = layer.append(x, x)
        assert keys.dtype == torch.bfloat16
    assert cache.length == 5
    assert cache.nbytes() == 3 * 2 * (2 * 1 * 8 * 4) * 2


def test_repeated_sequences_stand_together_and_go_on_apart():
    cache = KVCache(layers=2, batch=2, capacity=5)
    k, v = torch.randn(2, 2, 1, 3, 4)
    for layer in cache.layers:
        layer.append(k, v)
    cache.repeat(3)
    assert cache.length == 3
    more = torch.randn(6, 1, 1, 4)
    for layer in cache.layers:
        keys, values = layer.append(more, 2 * more)
        for row in range(6):
            assert torch.equal(keys[row], torch.cat((k[row // 3], more[row]), dim=1))
            assert torch.equal(values[row], torch.cat((v[row // 3], 2 * more[row]), dim=1))


def test_an_empty_cache_can_be_repeated():
    cache = LayerCache(batch=2, capacity=4)
    cache.repeat(2)
    x = torch.ones(4, 1, 3, 2)
    assert cache.append(x, x)[0].shape == (4, 1, 3, 2)
