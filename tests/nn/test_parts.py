"""Parts other than GPT-2's, compared with `transformers` or torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MarianConfig,
    MistralConfig,
    Qwen3Config,
    T5Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXLayer, GPTNeoXRotaryEmbedding
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding
from transformers.models.t5.modeling_t5 import T5Attention

from etude.errors import InvalidArguments
from etude.models.decoder import Decoder
from etude.nn.attention import MultiHeadAttention, reference_attention
from etude.nn.block import ParallelBlock, PreNormBlock
from etude.nn.cache import LayerCache
from etude.nn.feedforward import GELU, SwiGLU
from etude.nn.init import GPT2, T5, Normal, Small, Xavier
from etude.nn.mask import Bidirectional, Causal, Prefix, SlidingWindow, causal_mask
from etude.nn.norm import LayerNorm, RMSNorm
from etude.nn.position import (
    ALiBi,
    Learned,
    LinearRotary,
    Llama3Rotary,
    NoPosition,
    Position,
    RelativeBias,
    Rotary,
    Sinusoidal,
)

NOWHERE = NoPosition(dim=1, heads=1, max_length=1)


def attention(**changes: Any) -> MultiHeadAttention:
    torch.manual_seed(0)
    arguments = {"dim": 16, "heads": 4, "bias": True, "dropout": 0.0}
    return MultiHeadAttention(**(arguments | changes)).double()


def noise(*shape: int, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


# Attention


def test_cross_attention_is_torchs() -> None:
    mine = attention()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        nn.init.normal_(mine.qkv.bias)
        theirs.in_proj_weight.copy_(mine.qkv.weight)
        theirs.in_proj_bias.copy_(mine.qkv.bias)
        theirs.out_proj.load_state_dict(mine.out.state_dict())
    x, memory = noise(2, 5, 16), noise(2, 7, 16, seed=2)
    keep = torch.ones(2, 7, dtype=torch.bool)
    keep[0, 4:] = False
    expected, _ = theirs(x, memory, memory, key_padding_mask=~keep, need_weights=False)
    call: dict[str, Any] = {"position": NOWHERE, "causal": False}
    arguments = {"memory": memory, "bias": keep[:, None, None, :]}
    torch.testing.assert_close(mine(x, **arguments, **call), expected, rtol=0, atol=1e-12)
    cache = LayerCache(2, 0)  # later calls need not pass the memory again
    first = mine(x[:, :2], **arguments, cache=cache, **call)
    rest = mine(x[:, 2:], bias=keep[:, None, None, :], cache=cache, **call)
    torch.testing.assert_close(torch.cat((first, rest), 1), expected, rtol=0, atol=1e-12)


def test_cross_attention_normalises_queries_and_keys_too() -> None:
    module, x, memory = attention(qk_norm=True), noise(2, 5, 16), noise(2, 7, 16, seed=2)
    with torch.no_grad():
        for norm in (module.q_norm, module.k_norm):
            nn.init.normal_(norm.weight)
    (q, _, _), (_, k, v) = (
        module.qkv(y).view(2, -1, 3, 4, 4).permute(2, 0, 3, 1, 4) for y in (x, memory)
    )

    def normed(y: Tensor, norm: Any) -> Tensor:
        return norm.weight * y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    q, k = normed(q, module.q_norm), normed(k, module.k_norm)
    weights = (q @ k.mT / 2).softmax(-1)
    expected = module.out((weights @ v).transpose(1, 2).flatten(2))
    found = module(x, position=NOWHERE, causal=False, memory=memory)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("changes", [{"qkv_bias": True, "out_bias": False}, {"qkv_bias": False}])
def test_biases_of_their_own(changes: dict[str, bool]) -> None:
    module = attention(**changes)
    assert (module.qkv.bias is not None) == changes["qkv_bias"]
    assert (module.out.bias is not None) == changes.get("out_bias", True)


@pytest.mark.parametrize(("scale", "factor"), [("inverse", 1 / 4), ("one", 1.0)])
def test_scales(scale: Any, factor: float) -> None:
    module, x = attention(scale=scale), noise(2, 5, 16)
    q, k, v = module.qkv(x).view(2, 5, 3, 4, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT * factor).masked_fill(~causal_mask(5, 5), -torch.inf).softmax(-1)
    expected = module.out((weights @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(module(x, position=NOWHERE, causal=True), expected)


def test_head_width_of_its_own_and_qk_norm_are_qwen3s() -> None:
    config = Qwen3Config(
        hidden_size=16, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        max_position_embeddings=32, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
        attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = Qwen3Attention(config, layer_idx=0)
    mine = attention(bias=False, kv_heads=2, head_dim=6, qk_norm=True).float()
    with torch.no_grad():
        for norm in (theirs.q_norm, theirs.k_norm):
            nn.init.normal_(norm.weight)
        projections = (theirs.q_proj, theirs.k_proj, theirs.v_proj)
        mine.qkv.weight.copy_(torch.cat([p.weight for p in projections]))
        mine.out.weight.copy_(theirs.o_proj.weight)
        mine.q_norm.weight.copy_(theirs.q_norm.weight)
        mine.k_norm.weight.copy_(theirs.k_norm.weight)
    x = noise(2, 9, 16).float()
    angles = Qwen3RotaryEmbedding(config)(x, torch.arange(9)[None])
    hidden = torch.zeros(9, 9).masked_fill(~causal_mask(9, 9), -torch.inf)[None, None]
    expected, _ = theirs(x, angles, hidden)
    position = Rotary(dim=16, heads=4, max_length=32, head_dim=6)
    torch.testing.assert_close(mine(x, position=position, causal=True), expected, atol=1e-5, rtol=0)


def test_soft_cap_of_scores_is_gemma2s() -> None:
    q, k, v = (10 * noise(2, 4, 5, 6, seed=s) for s in range(3))
    module = nn.Module().eval()
    module.num_key_value_groups = 1  # type: ignore[assignment]
    hidden = torch.zeros(5, 5).double().masked_fill(~causal_mask(5, 5), -torch.inf)[None, None]
    theirs, _ = eager_attention_forward(
        module, q, k, v, hidden, dropout=0.0, scaling=0.4, softcap=3.0
    )
    mine = reference_attention(q, k, v, causal=True, scale=0.4, softcap=3.0)
    # The softmax of `transformers` is in float32.
    torch.testing.assert_close(mine.transpose(1, 2), theirs.double(), rtol=0, atol=1e-5)
    without = reference_attention(q, k, v, causal=True, scale=0.4)
    assert (mine - without).abs().max() > 0.1
    assert Gemma2Config().attn_logit_softcapping == 50.0  # as in `soft_cap.yaml`
    attend = attention(softcap=3.0).attend
    torch.testing.assert_close(attend(q, k, v, causal=True, scale=0.4), mine)


# Positions


@pytest.mark.parametrize("mask", [Causal, Bidirectional])
def test_relative_bias_is_t5s_far_and_near(mask: Any) -> None:
    config = T5Config(d_model=16, d_kv=4, num_heads=4, is_decoder=mask.causal)
    theirs = T5Attention(config, has_relative_attention_bias=True)
    mine = RelativeBias(dim=16, heads=4, max_length=8)
    mine.causal = mask.causal
    distances = torch.arange(-1000, 1001)
    buckets = T5Attention._relative_position_bucket(
        distances, bidirectional=not mask.causal, num_buckets=32, max_distance=128
    )
    assert torch.equal(mine.bucket(distances), buckets)
    with torch.no_grad():
        mine.weight.copy_(nn.init.normal_(theirs.relative_attention_bias.weight))
    for T, S in ((1, 1), (300, 300), (2, 200)):
        expected = theirs.compute_bias(S, S)[0, :, S - T :]
        assert torch.equal(mine.bias(T, S, like=expected), expected)


def test_attention_with_a_relative_bias_is_t5s() -> None:
    config = T5Config(d_model=16, d_kv=6, num_heads=4, dropout_rate=0.0)
    torch.manual_seed(0)
    theirs = T5Attention(config, has_relative_attention_bias=True).double().eval()
    mine = attention(bias=False, head_dim=6, scale="one")
    position = RelativeBias(dim=16, heads=4, max_length=8).double()
    position.causal = False
    with torch.no_grad():
        mine.qkv.weight.copy_(torch.cat([theirs.q.weight, theirs.k.weight, theirs.v.weight]))
        mine.out.weight.copy_(theirs.o.weight)
        position.weight.copy_(nn.init.normal_(theirs.relative_attention_bias.weight))
    x = noise(2, 40, 16)
    bias = position.bias(40, 40, like=x)
    actual = mine(x, position=position, causal=False, bias=bias)
    torch.testing.assert_close(actual, theirs(x)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("mine", "rope"),
    [
        (partial(LinearRotary, factor=4.0), {"rope_type": "linear", "factor": 4.0}),
        (
            partial(Llama3Rotary, factor=32.0),
            {
                "rope_type": "llama3",
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        ),
    ],
)
def test_scaled_frequencies_are_those_of_transformers(mine: Any, rope: dict[str, Any]) -> None:
    config = LlamaConfig(hidden_size=256, num_attention_heads=2, max_position_embeddings=131072)
    config.rope_parameters = {"rope_theta": 500000.0} | rope
    expected, _ = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, "cpu")
    position = mine(dim=256, heads=2, max_length=64, base=500000.0)
    actual = position.frequencies(128, 500000.0)
    torch.testing.assert_close(actual.float(), expected, rtol=1e-6, atol=0)
    assert not torch.allclose(actual, Rotary.frequencies(position, 128, 500000.0))
    q = noise(1, 1, 3, 128)
    turned, _ = position.rotate(q, q, start=7)
    z = torch.complex(*q.chunk(2, -1)) * torch.exp(1j * torch.arange(7, 10)[:, None] * actual)
    torch.testing.assert_close(turned, torch.cat((z.real, z.imag), -1))


def test_sines_in_halves_are_marians() -> None:
    config = MarianConfig(d_model=10)
    theirs = MarianSinusoidalPositionalEmbedding(20, config.d_model)
    weight = theirs.create_weight() if hasattr(theirs, "create_weight") else theirs._init_weight()
    rows = theirs.weight if weight is None else weight
    mine = Sinusoidal(dim=10, heads=1, max_length=20, halves=True).embed(torch.zeros(1, 20, 10))
    torch.testing.assert_close(mine[0], rows.detach(), rtol=0, atol=1e-6)


def test_learned_positions_may_begin_later() -> None:
    position = Learned(dim=4, heads=1, max_length=6, offset=2)
    assert position.weight.shape == (8, 4)
    x = torch.zeros(1, 3, 4)
    assert torch.equal(position.embed(x, 1)[0], position.weight[3:6])
    assert torch.equal(position.embed(x, torch.tensor([[0, 5, 0]]))[0], position.weight[[2, 7, 2]])
    with pytest.raises(InvalidArguments):
        position.embed(x, 4)


EVERY = [
    Learned, Sinusoidal, Rotary, partial(Rotary, fraction=0.5), LinearRotary, Llama3Rotary,
    RelativeBias, ALiBi, NoPosition,
]  # fmt: skip


@pytest.mark.parametrize("cls", EVERY)
def test_positions_one_by_one_are_those_in_a_row(cls: Any) -> None:
    position: Position = cls(dim=16, heads=2, max_length=32, head_dim=12).double()
    x, q = noise(2, 4, 16), noise(2, 2, 4, 12)
    positions = torch.tensor([[3, 4, 5, 6], [0, 1, 2, 3]])
    position.reach(7)
    rows, turned = position.embed(x, positions), position.rotate(q, q, positions)[1]
    for row, start in enumerate((3, 0)):
        one = slice(row, row + 1)
        torch.testing.assert_close(rows[one], position.embed(x[one], start))
        torch.testing.assert_close(turned[one], position.rotate(q[one], q[one], start)[1])


# Blocks


def test_a_parallel_block_with_partial_rotary_is_neoxs() -> None:
    config = GPTNeoXConfig(
        hidden_size=32, num_attention_heads=4, intermediate_size=128, max_position_embeddings=32,
        use_parallel_residual=True, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = GPTNeoXLayer(config, layer_idx=0).eval()
    mine = ParallelBlock(
        attention=partial(MultiHeadAttention, dim=32, heads=4, bias=True, dropout=0.0),
        norm=partial(LayerNorm, dim=32, bias=True),
        feedforward=partial(GELU, dim=32, bias=True, dropout=0.0),
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        qkv = theirs.attention.query_key_value  # queries, keys and values of one head together
        mine.attention.qkv.weight.copy_(
            qkv.weight.view(4, 3, 8, 32).transpose(0, 1).reshape(96, 32)
        )
        mine.attention.qkv.bias.copy_(qkv.bias.view(4, 3, 8).transpose(0, 1).flatten())
        for a, b in (
            (mine.attention.out, theirs.attention.dense),
            (mine.attention_norm, theirs.input_layernorm),
            (mine.feedforward_norm, theirs.post_attention_layernorm),
            (mine.feedforward.up, theirs.mlp.dense_h_to_4h),
            (mine.feedforward.down, theirs.mlp.dense_4h_to_h),
        ):
            a.load_state_dict(b.state_dict())
    x = noise(2, 9, 32).float()
    angles = GPTNeoXRotaryEmbedding(config)(x, torch.arange(9)[None])
    hidden = torch.zeros(9, 9).masked_fill(~causal_mask(9, 9), -torch.inf)[None, None]
    expected = theirs(x, hidden, position_embeddings=angles)
    expected = expected[0] if isinstance(expected, tuple) else expected
    position = Rotary(dim=32, heads=4, max_length=32, fraction=0.25)
    torch.testing.assert_close(mine(x, position=position, causal=True), expected, atol=1e-5, rtol=0)


def test_all_branches_of_a_parallel_block_read_the_same() -> None:
    arguments: dict[str, Any] = {
        "attention": partial(attention, dim=16),
        "cross": partial(attention, dim=16),
        "norm": partial(LayerNorm, dim=16, bias=True),
        "feedforward": partial(GELU, dim=16, bias=True, dropout=0.0),
    }
    block = ParallelBlock(**arguments).double()
    x, within = noise(2, 5, 16), {"position": NOWHERE, "causal": True}
    across = {"position": NOWHERE, "causal": False, "memory": noise(2, 7, 16, seed=2)}
    normed = F.layer_norm(x, (16,))
    expected = (
        x
        + block.attention(normed, **within)
        + block.cross(normed, **across)
        + block.feedforward(normed)
    )
    torch.testing.assert_close(block(x, across=across, **within), expected)


# Masks


def test_masks_by_hand() -> None:
    def rows(seen: Tensor | None) -> list[str]:
        assert seen is not None
        return ["".join("x" if s else "." for s in row) for row in seen]

    assert rows(Prefix(length=2).seen(4, 4)) == ["xx..", "xx..", "xxx.", "xxxx"]
    assert rows(SlidingWindow(window=2).seen(4, 4)) == ["x...", "xx..", ".xx.", "..xx"]
    assert rows(SlidingWindow(window=2).seen(2, 4)) == [".xx.", "..xx"]
    assert SlidingWindow(window=4).seen(4, 4) is None
    assert Causal().seen(3, 3) is None
    assert Bidirectional().seen(3, 3) is None


def small(**changes: Any) -> Decoder:
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "vocab_size": 29, "layers": 2, "heads": 4, "dim": 16, "max_length": 32,
        "attention": MultiHeadAttention, "position": Rotary, "norm": RMSNorm,
        "feedforward": SwiGLU, "mask": Causal, "block": PreNormBlock, "bias": False,
    }  # fmt: skip
    model = Decoder(**(arguments | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_a_sliding_window_is_mistrals() -> None:
    config = MistralConfig(
        vocab_size=29, hidden_size=16, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=3, rms_norm_eps=1e-6,
        tie_word_embeddings=True, attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    theirs = MistralForCausalLM(config).eval()
    mine = small(
        mask=partial(SlidingWindow, window=3), attention=partial(MultiHeadAttention, kv_heads=2)
    ).float()
    state = {"embed_tokens.weight": mine.embedding.weight, "norm.weight": mine.norm.weight}
    for i, block in enumerate(mine.blocks):
        q, k, v = block.attention.qkv.weight.split((16, 8, 8))
        state |= {
            f"layers.{i}.{name}.weight": value
            for name, value in {
                "self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": v,
                "self_attn.o_proj": block.attention.out.weight,
                "mlp.gate_proj": block.feedforward.gate.weight,
                "mlp.up_proj": block.feedforward.up.weight,
                "mlp.down_proj": block.feedforward.down.weight,
                "input_layernorm": block.attention_norm.weight,
                "post_attention_layernorm": block.feedforward_norm.weight,
            }.items()
        }  # fmt: skip
    theirs.model.load_state_dict(state)
    tokens = torch.randint(29, (2, 12))
    expected = theirs(tokens).logits
    torch.testing.assert_close(mine(tokens), expected, rtol=0, atol=1e-4)
    assert (small(attention=partial(MultiHeadAttention, kv_heads=2)).float()(tokens) - expected)[
        :, 3:
    ].abs().max() > 0.01


MASKS = [Causal, partial(SlidingWindow, window=3), partial(Prefix, length=4), Bidirectional]


@pytest.mark.parametrize("position", EVERY)
@pytest.mark.parametrize("mask", MASKS)
def test_padding_changes_nothing(position: Any, mask: Any) -> None:
    model = small(position=position, mask=mask).eval()
    short, long = torch.randint(1, 29, (1, 6)), torch.randint(1, 29, (1, 9))
    expected = model(short)
    keep = torch.ones(2, 9, dtype=torch.bool)
    keep[0, 6:] = False
    for filler in (0, 7):
        padded = torch.cat((F.pad(short, (0, 3), value=filler), long))
        found = model(padded, keep=keep)
        torch.testing.assert_close(found[:1, :6], expected, rtol=0, atol=1e-11)
        torch.testing.assert_close(found[1:], model(long), rtol=0, atol=1e-11)
    if isinstance(mask, partial) and mask.func is Prefix:
        return  # counts from the left
    left = keep.flip(1)
    positions = (left.cumsum(1) - 1).clamp(min=0)
    padded = torch.cat((F.pad(short, (3, 0), value=7), long))
    found = model(padded, keep=left, positions=positions)
    torch.testing.assert_close(found[:1, 3:], expected, rtol=0, atol=1e-11)
    assert found.isfinite().all()
    if mask is Bidirectional:
        return
    cache = model.new_cache(2, 9)  # prompts, padded on the left, then one token at a time
    pieces = [
        model(padded[:, a:b], cache, keep=left[:, :b], positions=positions[:, a:b])
        for a, b in ((0, 7), (7, 8), (8, 9))
    ]
    torch.testing.assert_close(torch.cat(pieces, 1)[:, 3:], found[:, 3:], rtol=0, atol=1e-11)


def test_the_prefix_sees_itself_and_a_cache_serves_the_rest() -> None:
    model, tokens = small(mask=partial(Prefix, length=4)).eval(), torch.randint(29, (2, 9))
    whole, cache = model(tokens), model.new_cache(2, 9)
    pieces = [model(piece, cache) for piece in tokens.split((4, 1, 4), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-11)
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 29
    assert (model(changed)[:, 0] - whole[:, 0]).abs().max() > 1e-3
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 29
    assert torch.equal(model(changed)[:, :4], whole[:, :4])


# Logits, recomputation, initialisation


def test_soft_cap_of_logits() -> None:
    tokens = torch.randint(29, (2, 6))
    uncapped = small()(tokens)
    expected = 0.5 * (uncapped / 0.5).tanh()
    torch.testing.assert_close(small(logit_softcap=0.5)(tokens), expected)


def test_recomputation_changes_memory_and_nothing_else() -> None:
    results, saved = [], []
    for recompute in (False, True):
        model = small(recompute=recompute, dropout=0.2, layers=4)
        tokens = torch.randint(29, (4, 32), generator=torch.Generator().manual_seed(0))
        count = 0

        def keep(x: Tensor) -> Tensor:
            nonlocal count
            count += x.nbytes
            return x

        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
            saved.append(count)
            loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    assert all(map(torch.equal, *results))
    assert saved[1] < saved[0] / 3


def stds(initialise: Any, layers: int = 3) -> dict[str, float]:
    torch.manual_seed(0)
    model = Decoder(
        vocab_size=2000, layers=layers, heads=4, dim=160, max_length=20, position=NoPosition,
        attention=partial(MultiHeadAttention, kv_heads=2), norm=LayerNorm, feedforward=GELU,
        mask=Causal, block=PreNormBlock, initialise=initialise, tie_embeddings=False,
    )  # fmt: skip
    block: Any = model.blocks[1]
    q, k, v = block.attention.qkv.weight.split((160, 80, 80))
    parts = {
        "embedding": model.embedding.weight, "q": q, "k": k, "v": v,
        "out": block.attention.out.weight, "up": block.feedforward.up.weight,
        "down": block.feedforward.down.weight, "head": model.head.weight,
    }  # fmt: skip
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(bool((bias == 0).all()) for bias in biases)
    return {name: float(weight.detach().std()) for name, weight in parts.items()}


D, WIDE, QUERIES = 160**-0.5, 640**-0.5, (160 * 40) ** -0.5
SMALL = (2 / 5 / 160) ** 0.5
EXPECTED = {
    Normal(std=0.03): [0.03] * 8,
    GPT2(): [0.02, 0.02, 0.02, 0.02, 0.02 / 6**0.5, 0.02, 0.02 / 6**0.5, 0.02],
    Xavier(): [
        D, (2 / 320) ** 0.5, (2 / 240) ** 0.5, (2 / 240) ** 0.5, (2 / 320) ** 0.5,
        (2 / 800) ** 0.5, (2 / 800) ** 0.5, (2 / 2160) ** 0.5,
    ],
    Small(): [SMALL, SMALL, SMALL, SMALL, 2 / 3 * D, SMALL, 2 / 3 * D, SMALL],
    T5(): [1.0, QUERIES, D, D, D, D, WIDE, D],
}  # fmt: skip


@pytest.mark.parametrize("initialise", EXPECTED, ids=lambda x: type(x).__name__)
def test_standard_deviations_of_initialisations(initialise: Any) -> None:
    for (name, found), expected in zip(stds(initialise).items(), EXPECTED[initialise], strict=True):
        assert found == pytest.approx(expected, rel=0.03), name


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (partial(attention, softcap=0.0), "softcap"),
        (partial(attention, scale="half"), "scale"),
        (partial(attention, head_dim=0), "head_dim"),
        (partial(attention, qk_norm_eps=0.0), "qk_norm_eps"),
        (partial(Rotary, dim=16, heads=2, max_length=4, fraction=0.1), "fraction"),
        (partial(Rotary, dim=16, heads=2, max_length=4, fraction=1.5), "fraction"),
        (partial(LinearRotary, dim=16, heads=2, max_length=4, factor=0.0), "factor"),
        (partial(Llama3Rotary, dim=16, heads=2, max_length=4, low=4.0, high=4.0), "high"),
        (partial(RelativeBias, dim=16, heads=2, max_length=4, buckets=6), "buckets"),
        (partial(RelativeBias, dim=16, heads=2, max_length=4, max_distance=8), "max_distance"),
        (partial(Learned, dim=16, heads=2, max_length=4, offset=-1), "offset"),
        (partial(SlidingWindow, window=0), "window"),
        (partial(Prefix, length=0), "length"),
        (partial(Normal, std=0.0), "std"),
        (partial(small, logit_softcap=-1.0), "logit_softcap"),
    ],
)
def test_bad_arguments_are_named(make: Any, where: str) -> None:
    with pytest.raises(InvalidArguments) as caught:
        make()
    assert [problem.where for problem in caught.value.problems] == [where]
