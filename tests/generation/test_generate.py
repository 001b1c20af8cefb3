from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.errors import InvalidArguments
from etude.generation.generate import generate
from etude.generation.model_modes import evaluation_mode
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention
from etude.nn.block import PreNormBlock
from etude.nn.feedforward import GELU, GELUTanh
from etude.nn.mask import Bidirectional, Causal
from etude.nn.norm import LayerNorm
from etude.nn.position import ALiBi, Learned, NoPosition, Rotary, Sinusoidal

V = 13


def make(position: type = Learned, **changes: Any) -> Decoder:
    torch.manual_seed(3)
    arguments: dict[str, Any] = {
        "vocab_size": V,
        "layers": 2,
        "heads": 4,
        "dim": 16,
        "max_length": 8,
        "attention": partial(MultiHeadAttention, kv_heads=2),
        "position": position,
        "norm": LayerNorm,
        "feedforward": GELU,
        "mask": Causal,
        "block": PreNormBlock,
    }
    model = Decoder(**(arguments | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return model


class Counting(nn.Module):
    """Model that predicts n + 1 after n, modulo V, and records its inputs."""

    window = 6

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[list[int]]] = []

    def forward(self, tokens: Tensor, cache: Any, *, last_only: bool) -> Tensor:
        assert last_only
        assert not self.training
        self.seen.append(tokens.tolist())
        if cache is not None:
            cache.length += tokens.shape[1]
        return nn.functional.one_hot((tokens[:, -1:] + 1) % V, V).float()

    def new_cache(self, batch: int, length: int) -> Any:
        class Length:
            pass

        cache = Length()
        cache.length = 0  # type: ignore[attr-defined]
        return cache


def test_reads_every_token_once_until_the_window_is_full():
    model = Counting()
    out = generate(model, torch.tensor([[1, 2, 3]]), max_new_tokens=6, greedy=True)
    assert out.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert model.seen == [
        [[1, 2, 3]], [[4]], [[5]], [[6]], [[2, 3, 4, 5, 6, 7]], [[3, 4, 5, 6, 7, 8]]
    ]  # fmt: skip


def test_without_a_cache_it_reads_everything_again():
    model = Counting()
    generate(model, torch.tensor([[1, 2]]), max_new_tokens=3, greedy=True, use_cache=False)
    assert model.seen == [[[1, 2]], [[1, 2, 3]], [[1, 2, 3, 4]]]


def test_a_prompt_longer_than_the_window_is_kept_and_its_end_is_read():
    model = Counting()
    prompt = torch.arange(9)[None]
    assert generate(model, prompt, max_new_tokens=1, greedy=True).tolist() == [[*range(10)]]
    assert model.seen == [[[3, 4, 5, 6, 7, 8]]]


@pytest.mark.parametrize("position", [Learned, Sinusoidal, Rotary, ALiBi, NoPosition])
@pytest.mark.parametrize("T", [1, 5, 8, 11])
def test_with_and_without_a_cache_the_same_past_the_window(position, T):
    """Also equals an explicit loop over the last `window` tokens and the largest logit."""
    model = make(position, tie_embeddings=False, bias=False).eval()
    tokens = torch.randint(V, (3, T), generator=torch.Generator().manual_seed(T))
    cached, uncached = (
        generate(model, tokens, max_new_tokens=12, greedy=True, use_cache=use)
        for use in (True, False)
    )
    expected = tokens
    with torch.no_grad():
        for _ in range(12):
            following = model(expected[:, -8:])[:, -1].max(dim=-1).indices
            expected = torch.cat((expected, following[:, None]), dim=1)
    assert len(set(expected[:, T:].flatten().tolist())) > 2
    assert torch.equal(uncached, expected)
    assert torch.equal(cached, expected)


def test_a_stopped_row_stays_stopped_and_the_last_ends_it():
    columns: list[list[int]] = []
    out = generate(
        Counting(),
        torch.tensor([[5], [7], [6]]),
        max_new_tokens=9,
        greedy=True,
        stop_token=8,
        on_token=lambda column: columns.append(column.tolist()),
    )
    assert out.tolist() == [[5, 6, 7, 8], [7, 8, 8, 8], [6, 7, 8, 8]]
    assert columns == [[6, 8, 7], [7, 8, 8], [8, 8, 8]]


def test_a_stop_token_in_the_prompt_stops_nothing():
    out = generate(Counting(), torch.tensor([[8]]), max_new_tokens=3, greedy=True, stop_token=8)
    assert out.tolist() == [[8, 9, 10, 11]]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("T", [1, 5, 11])
@pytest.mark.parametrize("draw", [{"greedy": True}, {"temperature": 2.0}, {"top_k": 3}])
def test_samples_are_those_of_repeated_rows(use_cache, T, draw):
    """Holds past the window too; the rows of a prompt are adjacent."""
    model = make(tie_embeddings=False)
    tokens = torch.randint(V, (2, T), generator=torch.Generator().manual_seed(T))
    first, second = (
        generate(
            model,
            rows,
            samples=samples,
            max_new_tokens=9,
            generator=torch.Generator().manual_seed(0),
            use_cache=use_cache,
            **draw,
        )
        for rows, samples in ((tokens, 3), (tokens.repeat_interleave(3, dim=0), 1))
    )
    assert torch.equal(first, second)


def test_samples_read_their_prompt_once():
    model, shapes = make(), []
    model.embedding.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    generate(model, torch.zeros(1, 5, dtype=torch.long), samples=4, max_new_tokens=3)
    assert [tuple(shape) for shape in shapes] == [(1, 5), (4, 1), (4, 1)]


def test_a_token_costs_no_slow_look_up(monkeypatch):
    """`nn.Module.__getattr__` is called during preparation, not for each token."""
    model, asked, slow = make(dropout=0.1), [], nn.Module.__getattr__

    def noted(module: nn.Module, name: str) -> Any:
        asked.append(name)
        return slow(module, name)

    monkeypatch.setattr(nn.Module, "__getattr__", noted)
    counts = []
    for new in (1, 7):
        asked.clear()
        generate(model, torch.zeros(1, 1, dtype=torch.long), max_new_tokens=new)
        counts.append(len(asked))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("position", [Learned, Sinusoidal, Rotary, ALiBi, NoPosition])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("way", [{"greedy": True}, {"beams": 3}, {"temperature": 2.0}])
def test_a_padded_batch_gives_the_texts_of_each_row_alone(position, use_cache, way):
    """Holds past the window, which the rows reach at different steps, and for any padding id."""
    model = make(position, tie_embeddings=False)
    lengths = [5, 1, 11, 8]
    source = torch.Generator().manual_seed(1)
    rows = [torch.randint(V, (n,), generator=source) for n in lengths]
    tokens = torch.stack([torch.cat((torch.full((11 - len(r),), V - 1), r)) for r in rows])
    keep = torch.arange(11) >= 11 - torch.tensor(lengths)[:, None]
    more = {"max_new_tokens": 9, "use_cache": use_cache, "repetition_penalty": 1.3}
    more |= {"no_repeat_ngram": 3, "samples": 2} | way

    def seeds(row: int) -> Any:
        draws = "temperature" in way
        return [torch.Generator().manual_seed(10 * row + j) for j in (0, 1)] if draws else []

    together: dict[str, Any] = {"generator": [g for i in range(4) for g in seeds(i)] or None}
    batch = generate(model, tokens, keep=keep, **more, **together)
    assert torch.equal(batch[:, :11], tokens.repeat_interleave(2, dim=0))
    for i, row in enumerate(rows):
        alone = generate(model, row[None], **more, generator=seeds(i) or None)
        assert torch.equal(batch[2 * i : 2 * i + 2, 11 - len(row) :], alone)


@pytest.mark.parametrize("position", [Learned, Rotary])
def test_beams_with_and_without_a_cache(position):
    model = make(position, max_length=40)
    tokens = torch.randint(V, (3, 4), generator=torch.Generator().manual_seed(1))
    first, second = (
        generate(model, tokens, max_new_tokens=20, beams=5, samples=5, use_cache=use)
        for use in (True, False)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("max_length", [28, 8])
def test_prompts_that_are_done_leave_the_batch(max_length, early):
    """Results equal those of single prompts; past the window, without a cache, all prompts stay."""
    model = make(Rotary, max_length=max_length)
    tokens = torch.randint(4, V, (6, 4), generator=torch.Generator().manual_seed(1))
    rows: list[int] = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    more: dict[str, Any] = {
        "max_new_tokens": 25, "beams": 3, "samples": 3, "stop_token": [0, 1, 2],
        "early_stopping": early,
    }  # fmt: skip
    together = generate(model, tokens, **more)
    steps = list(rows)
    for i, prompt in enumerate(tokens):
        alone = generate(model, prompt[None], **more)
        width = alone.shape[1]
        assert torch.equal(together[3 * i : 3 * i + 3, :width], alone)
        assert bool((together[3 * i : 3 * i + 3, width:] == 0).all())
    assert steps[:2] == [6, 18]
    assert steps == sorted(steps[:1]) + sorted(steps[1:], reverse=True)
    if max_length == 8:
        assert set(steps[1:]) == {18}
    else:
        assert len(set(steps[1:])) > 2


def test_any_of_several_stop_tokens_and_a_stop_of_ones_own():
    out = generate(
        Counting(), torch.tensor([[1], [5]]), max_new_tokens=9, greedy=True, stop_token=[4, 7]
    )
    assert out.tolist() == [[1, 2, 3, 4], [5, 6, 7, 4]]
    seen: list[list[list[int]]] = []

    def stop(new: Tensor) -> Tensor:
        seen.append(new.tolist())
        return new[:, -1] % 4 == 0

    out = generate(Counting(), torch.tensor([[1], [5]]), max_new_tokens=9, greedy=True, stop=stop)
    assert out.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert seen == [[[2], [6]], [[2, 3], [6, 7]], [[2, 3, 4], [6, 7, 8]]]


def test_processors_come_in_order_and_see_all_tokens():
    seen = []

    def only(token: int) -> Any:
        def processor(tokens: Tensor, logits: Tensor) -> Tensor:
            seen.append((token, tokens.tolist()))
            return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)

        return processor

    arguments: Any = {"max_new_tokens": 2, "greedy": True, "processors": [only(4), only(9)]}
    keep = torch.tensor([[False, True], [True, True]])

    class Padded(Counting):
        def forward(self, tokens: Tensor, cache: Any, *, last_only: bool, **more: Any) -> Tensor:
            return super().forward(tokens, cache, last_only=last_only)

    out = generate(Padded(), torch.tensor([[3, 1], [1, 2]]), keep=keep, **arguments)
    assert out[:, 2:].tolist() == [[9, 9], [9, 9]]
    assert [token for token, _ in seen] == [4, 9, 4, 9]
    assert seen[0][1] == [[-1, 1], [1, 2]]
    assert seen[2][1] == [[-1, 1, 9], [1, 2, 9]]


def test_no_new_tokens():
    tokens = torch.tensor([[1, 2]])
    assert torch.equal(generate(Counting(), tokens, max_new_tokens=0), tokens)


def test_draws_depend_on_the_generator_alone():
    model, tokens = make(), torch.zeros(4, 1, dtype=torch.long)

    def draw(seed: int) -> Tensor:
        torch.rand(1)  # the global state must not matter
        source = torch.Generator().manual_seed(seed)
        return generate(model, tokens, max_new_tokens=12, temperature=2.0, generator=source)

    assert torch.equal(draw(0), draw(0))
    assert not torch.equal(draw(0), draw(1))


def test_modes_are_restored_even_after_a_failure():
    model = make(dropout=0.5).train()
    model.blocks[0].eval()  # a frozen part
    before = [module.training for module in model.modules()]
    generate(model, torch.zeros(1, 1, dtype=torch.long), max_new_tokens=2)
    assert [module.training for module in model.modules()] == before
    with pytest.raises(IndexError):
        generate(model, torch.full((1, 1), V), max_new_tokens=2)
    assert [module.training for module in model.modules()] == before
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("position", [Learned, Sinusoidal, Rotary, ALiBi])
def test_training_goes_on_after_generating(position):
    model = make(position)
    generate(model, torch.zeros(2, 1, dtype=torch.long), max_new_tokens=10)
    model(torch.zeros(2, 8, dtype=torch.long)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("way", [{"greedy": True}, {}, {"beams": 2}])
def test_weights_that_are_no_numbers_are_told(way):
    model = make()
    with torch.no_grad():
        model.norm.weight.fill_(math.nan)
    with pytest.raises(InvalidArguments, match="logits are not NaN"):
        generate(model, torch.zeros(1, 1, dtype=torch.long), max_new_tokens=2, **way)


def test_one_prompt_without_numbers_is_told_though_it_leaves_the_batch():
    model = make(tie_embeddings=False, max_length=20)
    with torch.no_grad():
        model.embedding.weight[5].fill_(math.nan)

    def never(_: Tensor, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor([5]), -torch.inf)

    options: dict[str, Any] = {"max_new_tokens": 8, "beams": 2, "processors": [never]}
    generate(model, torch.tensor([[3], [1], [2]]), **options)
    with pytest.raises(InvalidArguments, match="logits are not NaN"):
        generate(model, torch.tensor([[5], [1], [2]]), **options)


def test_the_same_text_as_transformers():
    """Greedy decoding with each library's cache, GPT-2's parts and the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = make(feedforward=GELUTanh, attention=MultiHeadAttention, max_length=24).float()
    config = GPT2Config(vocab_size=V, n_positions=24, n_embd=16, n_layer=2, n_head=4)
    theirs = GPT2LMHeadModel(config).eval()
    names = {"embedding": "wte", "position": "wpe", "norm": "ln_f"}
    parts = {
        "attention_norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "feedforward_norm": "ln_2",
        "feedforward.up": "mlp.c_fc",
        "feedforward.down": "mlp.c_proj",
    }
    names |= {f"blocks.{i}.{a}": f"h.{i}.{b}" for i in range(2) for a, b in parts.items()}
    mine, state = model.state_dict(), theirs.transformer.state_dict()
    for a, b in names.items():
        for kind in {"weight", "bias"} & {
            name[len(a) + 1 :] for name in mine if name.startswith(a)
        }:
            value = mine[f"{a}.{kind}"]
            state[f"{b}.{kind}"].copy_(value.T if "c_" in b and value.ndim == 2 else value)
    tokens = torch.randint(V, (3, 4), generator=torch.Generator().manual_seed(0))
    expected = theirs.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=18,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert len(set(expected[:, 4:].flatten().tolist())) > 2
    assert torch.equal(generate(model, tokens, max_new_tokens=18, greedy=True), expected)


def test_a_bidirectional_model_generates_without_a_cache_only():
    model, tokens = make(mask=Bidirectional), torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(InvalidArguments, match="mask"):
        generate(model, tokens, max_new_tokens=1)
    assert generate(model, tokens, max_new_tokens=2, use_cache=False).shape == (1, 3)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"max_new_tokens": -1}, "max_new_tokens"),
        ({"samples": 0}, "samples"),
        ({"min_p": 1.5}, "min_p"),
        ({"beams": 0}, "beams"),
        ({"beams": 2, "samples": 3}, "samples"),
        ({"beams": 2, "temperature": 0.8}, "temperature"),
        ({"beams": 2, "top_k": 5}, "top_k"),
        ({"beams": 2, "on_token": print}, "on_token"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"early_stopping": True}, "early_stopping"),
        ({"beams": 2, "length_penalty": math.nan}, "length_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram"),
        ({"min_new_tokens": 2}, "min_new_tokens"),
        ({"generator": []}, "generator"),
        ({"keep": torch.tensor([[False]])}, "keep"),
        ({"keep": torch.tensor([[True, True]])}, "keep"),
        ({"tokens": torch.zeros(1, 0, dtype=torch.long)}, "tokens"),
    ],
)
def test_refuses_before_the_model_is_asked(changes, where):
    model = Counting()
    arguments: dict[str, Any] = {"tokens": torch.tensor([[1]]), "max_new_tokens": 1} | changes
    with pytest.raises(InvalidArguments) as caught:
        generate(model, arguments.pop("tokens"), **arguments)
    assert [problem.where for problem in caught.value.problems] == [where]
    assert model.seen == []


@pytest.mark.parametrize(
    "given", [{"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}]
)
def test_greedy_takes_no_option_of_drawing(given: dict[str, float]) -> None:
    (key,) = given
    with pytest.raises(InvalidArguments, match=f"{key} = .*: expected .* with greedy"):
        generate(Counting(), torch.tensor([[1]]), max_new_tokens=1, greedy=True, **given)  # type: ignore[arg-type]
