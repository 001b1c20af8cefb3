"""Generation of a target text from a source text."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from test_language_model import Bytes

from etude.errors import InvalidArguments
from etude.generation.generate import generate
from etude.models.encoder_decoder import EncoderDecoder
from etude.models.seq2seq import Seq2Seq
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import ReLU
from etude.nn.mask import Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import Position, RelativeBias, Sinusoidal


def random_model(position: type[Position] = Sinusoidal, **changes: Any) -> Seq2Seq:
    torch.manual_seed(0)
    module = EncoderDecoder(
        vocab_size=257,
        layers=2,
        heads=2,
        dim=16,
        max_length=32,
        attention=partial(MultiHeadAttention, kv_heads=1),
        position=position,
        norm=LayerNorm,
        feedforward=ReLU,
        mask=Causal,
        block=PreNormBlock,
        start_token=256,
        dropout=0.5,
        **changes,
    ).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return Seq2Seq(module, Bytes())


def test_the_target_alone_is_returned_and_follows_from_the_source():
    model = random_model()
    ids = torch.tensor([[*b"Good morning", 256]])
    model.module.eval()
    target = torch.tensor([[256]])
    for _ in range(6):
        with torch.no_grad():
            following = model.module(ids, target)[:, -1].argmax(dim=-1)
        if int(following) == 256:
            break
        target = torch.cat((target, following[:, None]), dim=1)
    expected = model.tokenizer.decode(target[0, 1:].tolist())
    model.module.train()  # generating is not training
    assert model.generate("Good morning", greedy=True, max_new_tokens=6) == expected
    assert model.module.training


@pytest.mark.parametrize("position", [Sinusoidal, RelativeBias])
@pytest.mark.parametrize(
    "way", [{"greedy": True}, {"seed": 3, "samples": 2}, {"beams": 3, "samples": 3}]
)
def test_sources_of_a_batch_do_not_see_each_other(position, way):
    model = random_model(position)
    sources = ["a", "some longer source", "bcd"]
    together = model.generate(sources, max_new_tokens=9, **way)
    n = way.get("samples", 1)
    for i, source in enumerate(sources):
        alone = model.generate(source, max_new_tokens=9, **way)
        assert together[n * i : n * i + n] == ([alone] if n == 1 else alone)
    assert len(set(together)) > 1


@pytest.mark.parametrize("way", [{"greedy": True}, {"beams": 3, "samples": 2}])
def test_with_and_without_a_cache_past_the_window(way):
    module = random_model().module.eval()
    module.max_length = 6
    source = torch.randint(256, (3, 5), generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([[True] * 5, [True] * 3 + [False] * 2, [True] * 4 + [False]])
    start = torch.full((3, 1), 256)
    with torch.inference_mode():
        reading = module.reading(source, keep)
    first, second = (
        generate(reading, start, max_new_tokens=11, use_cache=use, **way) for use in (True, False)
    )
    assert torch.equal(first, second)
    assert len(first.unique()) > 4


def test_stops_words_and_streams():
    model = random_model()
    text = model.generate("abc", max_new_tokens=30, seed=2)
    pieces: list[str] = []
    assert model.generate("abc", max_new_tokens=30, seed=2, stream=pieces.append) == text
    assert "".join(pieces) == text
    stop = text[4:6]
    assert model.generate("abc", max_new_tokens=30, seed=2, stop=stop) == text[: text.find(stop)]


def test_called_with_ids_it_gives_the_logits_of_its_module():
    model = random_model()
    model.module.eval()
    expected = model.module(torch.tensor([[1, 2, 3]]), torch.tensor([[256, 5]]))
    torch.testing.assert_close(model([1, 2, 3], [256, 5]), expected[0])
    torch.testing.assert_close(model([[1, 2, 3]], [[256, 5]]), expected)


def test_nothing_to_read():
    model = Seq2Seq(random_model().module, Bytes(end_of_text=None))
    with pytest.raises(InvalidArguments, match="end-of-text"):
        model.generate("")
