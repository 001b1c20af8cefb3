# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Attention from scratch
#
# What does attention compute, and what would go wrong without each of its parts? We train a small
# model for a few seconds, and rebuild the attention of its first layer in plain torch, one
# operation at a time:
#
# $$\text{attention}(Q, K, V) = \text{softmax}\Big(\frac{Q K^\top}{\sqrt{d_k}} + M\Big)\, V$$
#
# (Vaswani et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.2.1; the
# mask $M$ is 0 or $-\infty$.) Each intermediate value must equal the value that the model itself
# computes. Along the way we measure what the factor $1/\sqrt{d_k}$, the mask, and the position
# encoding do. At the end we look at the heads of the trained model.

# %% start
import math
import os
import tempfile

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F

import etude
from etude.activations import heads, zero
from etude.errors import RequestError
from etude.interpret import attention_entropy, previous_token_scores
from etude.nn.attention import fused_attention, reference_attention
from etude.nn.position import NoPosition

# A scratch folder. Without this line the records are kept, in ./experiments.
os.chdir(tempfile.mkdtemp(prefix="etude-"))

# %% [markdown]
# ## A model to take apart
#
# The model predicts the next character of State of the Union messages. It has two layers of four
# heads, with $d_k = 16$ dimensions each, and rotary positions.

# %% train
run = etude.train(
    etude.compose(
        "experiment=debug",
        "model.dim=64",
        "model.heads=4",
        "model/position=rotary",
        "data.sequence_length=64",
        "data.batch.examples=12",
        "optimizer.lr=5e-3",
        "schedule.warmup_steps=20",
        "trainer.max_steps=400",
        "trainer.val_check_interval=200",
        "run.samples=0",
    )
)
model = run.model()

# %% [markdown]
# `capture` records intermediate values by name while the model reads a text. Here it records all
# values of the first layer's attention, and the input of that module. The dimensions are:
# sequences, heads, characters, and the 16 dimensions of a head; scores and pattern have a number
# for each pair of a query and a key.

# %% capture
text = "the people of the United States"
ids = torch.tensor([model.tokenizer.encode(text)])
with torch.no_grad(), model.capture("blocks.0.attention.*", "blocks.0.attention_norm.out") as seen:
    model(ids)

names = ("q", "k", "v", "scores", "pattern", "mixed", "out")
model_values = {name: seen[f"blocks.0.attention.{name}"] for name in names}
shapes = {name: tuple(value.shape) for name, value in model_values.items()}
pd.Series(shapes, name="shape").to_frame()

# %% [markdown]
# ## Step 1: scores
#
# The score of a query and a key is their dot product divided by $\sqrt{d_k}$. A key has a high
# score if it has the direction of the query.


# %% scores
def equals_model(value, name):
    """Returns whether a value equals the value that the model computed, up to rounding."""
    return torch.allclose(value, model_values[name], atol=1e-5)


q, k, v = (model_values[name] for name in ("q", "k", "v"))
d_k = q.shape[-1]
scores = q @ k.transpose(-2, -1) / math.sqrt(d_k)  # (1, heads, queries, keys)
equals_model(scores, "scores")

# %% [markdown]
# False: the model hides the characters after the query. The mask sets their scores to $-\infty$.

# %% mask
T = len(text)
later = torch.ones(T, T, dtype=torch.bool).triu(1)  # true where the key comes after the query
masked = scores.masked_fill(later, -torch.inf)
equals_model(masked, "scores")

# %% [markdown]
# ## Step 2: weights, and the average of the values
#
# The softmax turns the scores of each query into weights, which are positive and add up to 1. The
# output is the average of the values with these weights.

# %% softmax
exponentials = (masked - masked.amax(-1, keepdim=True)).exp()  # minus the maximum: no overflow
pattern = exponentials / exponentials.sum(-1, keepdim=True)
mixed = pattern @ v
equals_model(pattern, "pattern"), equals_model(mixed, "mixed")

# %% [markdown]
# One head on this text. A hidden key has weight 0, and the first character can only attend to
# itself.

# %% steps
characters = [c if c != " " else "␣" for c in text]


def show(axes, values, title, **options):
    """Draws a value for each pair of a query and a key; minus infinity is grey."""
    axes.set_facecolor("lightgrey")
    image = axes.imshow(values.where(values.isfinite(), torch.nan), **options)
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(T), characters, fontsize=7)
    axes.set_yticks(range(T), characters, fontsize=7)
    return image


previous = previous_token_scores(model, ids)
head = int(previous[0].argmax())
figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
largest = float(scores[0, head].abs().max())
signed = {"cmap": "PuOr", "vmin": -largest, "vmax": largest}
stages = {
    "q · k / √d_k": (scores, signed),
    "scores after the mask": (masked, signed),
    "pattern (softmax)": (pattern, {"cmap": "Blues", "vmin": 0, "vmax": 1}),
}
for axes, (title, (values, colours)) in zip(panels, stages.items(), strict=True):
    figure.colorbar(show(axes, values[0, head], title, **colours), ax=axes, shrink=0.8)
panels[0].set(xlabel="key", ylabel="query")
figure.suptitle(f"layer 0, head {head}")
plt.show()

# %% [markdown]
# ## Why divide by $\sqrt{d_k}$?
#
# Suppose that the components of $q$ and $k$ are independent, with mean 0 and variance 1. Each
# product $q_i k_i$ then has mean 0 and variance 1, and the variances of independent terms add up:
#
# $$\text{Var}(q \cdot k) = \sum_{i=1}^{d_k} \text{Var}(q_i k_i) = d_k$$
#
# (Vaswani et al., footnote 4). Without the factor, scores grow with $\sqrt{d_k}$, and the softmax
# puts nearly all weight on one key. Its derivative is $\partial p_i / \partial s_j = p_i
# (\delta_{ij} - p_j)$, which is 0 for every pair if one weight is 1 and the others are 0. Such a
# head learns almost nothing through its scores: "extremely small gradients" in the words of the
# paper.
#
# We measure both for random queries with 32 keys each: the entropy of the weights ($\ln 32 = 3.5$
# nats if all are equal), and the size of the derivative (the Frobenius norm of this matrix).


# %% scale
def softmax_statistics(width, scale, queries=500, keys=32):
    """Returns quantiles over random queries of the entropy and of the softmax's derivative."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(queries, 1, width, generator=generator)
    key = torch.randn(queries, keys, width, generator=generator)
    dot_products = (query * key).sum(-1)
    p = (dot_products * scale).softmax(-1)
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    row = {"d_k": width, "variance": float(dot_products.var())}
    measures = {"entropy": torch.special.entr(p).sum(-1), "derivative": jacobian.norm(dim=(1, 2))}
    for name, values in measures.items():
        low, middle, high = values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
        row |= {f"{name}, low": low, name: middle, f"{name}, high": high}
    return row


widths = [2**n for n in range(1, 12)]
scaled = pd.DataFrame([softmax_statistics(width, 1 / math.sqrt(width)) for width in widths])
unscaled = pd.DataFrame([softmax_statistics(width, 1) for width in widths])
columns = ["variance", "entropy", "derivative"]
both = {"with 1/√d_k": scaled, "without": unscaled}
pd.concat({name: table.set_index("d_k")[columns] for name, table in both.items()}, axis=1).round(4)

# %% scale_figure
figure, panels = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
panels[0].plot(widths, unscaled["variance"], "o", label="measured")
panels[0].plot(widths, widths, "k:", label="d_k")
panels[0].set(title="variance of q · k", xlabel="d_k", xscale="log", yscale="log")
for axes, name in zip(panels[1:], ("entropy", "derivative"), strict=True):
    for label, table in both.items():
        (line,) = axes.plot(widths, table[name], "o-", label=label)
        low, high = table[f"{name}, low"], table[f"{name}, high"]
        axes.fill_between(widths, low, high, alpha=0.2, color=line.get_color())
    axes.set(title=f"{name} of the softmax", xlabel="d_k", xscale="log")
panels[1].set(ylabel="nats", title="entropy of the weights")
panels[2].set(yscale="log", title="derivative of the softmax", ylim=(1e-8, 1))
for axes in panels:
    axes.legend()
    axes.grid(alpha=0.3)
figure.suptitle("random queries and keys: median, and the middle half of 500 queries")
plt.show()

# %% [markdown]
# With the factor, neither depends on $d_k$ any more, apart from the very small widths. Without
# it, most queries have almost no derivative at a width of a thousand, and a few still have a
# large one: those with two nearly equal highest scores.
#
# The assumption concerns random vectors, so it is about the start of training. Trained queries
# and keys are not independent. The scores of the trained model have these standard deviations,
# where the random ones have 1:

# %% trained_scores
deviations = scores[0][:, ~later].std(-1)
pd.Series(deviations, name="standard deviation of the scores").rename_axis("head").round(
    1
).to_frame()

# %% [markdown]
# ## Why a mask?
#
# A decoder predicts the next character at all positions in one pass. If a position could read
# later characters, the answer would be in its input. We replace the last character of the text
# and measure how much the module's output changes at the positions before it.

# %% future
attention = model.module.blocks[0].attention
position = model.module.position
x = seen["blocks.0.attention_norm.out"]  # (1, characters, width): the module's input
other = x.clone()
other[:, -1] = x[:, 0]  # another last character

changes = {}
with torch.no_grad():
    for name, causal in (("with the mask", True), ("without", False)):
        outputs = [attention(each, position=position, causal=causal) for each in (x, other)]
        changes[name] = float((outputs[0] - outputs[1])[:, :-1].abs().max())
pd.Series(changes, name="largest change at earlier positions").to_frame()

# %% [markdown]
# A model without this mask would be of no use for the task, so Étude refuses to train it:

# %% refused
try:
    etude.train(etude.compose("experiment=debug", "model/mask=bidirectional"))
except RequestError as error:
    print(error)

# %% [markdown]
# ## Why positions?
#
# Dot products and averages don't depend on the order of the keys. Without a mask and without
# positions, attention to a shuffled text therefore gives the same outputs in the new order. We
# shuffle all characters but the last.

# %% permutation
no_position = NoPosition(dim=64, heads=4, max_length=64)
order = [*torch.randperm(T - 1, generator=torch.Generator().manual_seed(0)), T - 1]

rows = []
with torch.no_grad():
    for name, each in (("none", no_position), ("rotary", position)):
        for causal in (False, True):
            y = attention(x, position=each, causal=causal)
            shuffled = attention(x[:, order], position=each, causal=causal)
            same = (y[:, order] - shuffled).abs().amax(-1)[0] < 1e-5  # for each character
            rows.append((name, "causal" if causal else "none", bool(same.all()), bool(same[-1])))
pd.DataFrame(rows, columns=["position", "mask", "same in the new order", "last output the same"])

# %% [markdown]
# The causal mask breaks the symmetry, but not for the last character: one layer without positions
# reads the characters before it as a set with counts. (A second layer could use the first one's
# masks to infer positions, Haviv et al. 2022,
# [arXiv:2203.16634](https://arxiv.org/abs/2203.16634).)
#
# Rotary positions (Su et al. 2021, [arXiv:2104.09864](https://arxiv.org/abs/2104.09864)) turn
# each pair of dimensions of a query and a key by an angle in proportion to the position. The dot
# product then depends on the distance of the two positions. Here are the model's queries, keys
# and values from its input: three matrices, heads, and the rotation.


# %% rotation
def rotate(x):
    """Turns dimension i and i + d_k / 2 at position t by the angle t / 10000^(2 i / d_k)."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-torch.arange(half) / half)
    angles = torch.arange(x.shape[-2])[:, None] * frequencies
    pairs = torch.complex(x[..., :half], x[..., half:])
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def split_heads(x, heads=4):
    """Splits the last dimension into heads: (1, T, D) to (1, heads, T, D / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


W_q, W_k, W_v = attention.qkv.weight.detach().chunk(3)
q, k, v = (split_heads(x @ W.T) for W in (W_q, W_k, W_v))
pd.DataFrame(
    {
        "before the rotation": [equals_model(q, "q"), equals_model(k, "k"), equals_model(v, "v")],
        "after": [equals_model(rotate(q), "q"), equals_model(rotate(k), "k"), None],
    },
    index=["q", "k", "v"],
)

# %% [markdown]
# ## Several heads
#
# Each head averages with weights of its own, in a quarter of the width, so four heads cost as
# much as one. The outputs of the heads are joined and multiplied by a last matrix. This is the
# same as a sum over heads, each with its own slice of the matrix: heads write to the output
# independently.

# %% heads
W_out = attention.out.weight.detach()
joined = mixed.transpose(1, 2).flatten(2) @ W_out.T
by_head = torch.stack([mixed[:, h] @ W.T for h, W in enumerate(W_out.chunk(4, dim=1))])
equals_model(joined, "out"), equals_model(by_head.sum(0), "out")

# %% [markdown]
# ## All of it
#
# The module in nine lines, for both layers of the model. The input is what the model's own layer
# receives.


# %% module
def multi_head_attention(x, W_qkv, W_out, heads=4):
    """Returns the output of causal multi-head attention with rotary positions."""
    q, k, v = (split_heads(each, heads) for each in (x @ W_qkv.T).chunk(3, dim=-1))
    scores = rotate(q) @ rotate(k).transpose(-2, -1) / math.sqrt(q.shape[-1])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(later, -torch.inf).softmax(-1)
    return (pattern @ v).transpose(1, 2).flatten(2) @ W_out.T


inputs, outputs = "blocks.*.attention_norm.out", "blocks.*.attention.out"
with torch.no_grad(), model.capture(inputs, outputs) as seen:
    model(ids)
equal = []
for i, block in enumerate(model.module.blocks):
    weights = (block.attention.qkv.weight.detach(), block.attention.out.weight.detach())
    output = multi_head_attention(seen[f"blocks.{i}.attention_norm.out"], *weights)
    equal.append(torch.allclose(output, seen[f"blocks.{i}.attention.out"], atol=1e-5))
equal

# %% [markdown]
# The same formula in Étude's own code is `reference_attention`. The model uses `fused_attention`,
# a kernel of torch that never stores the pattern. All three agree.

# %% kernels
q, k, v = (model_values[name] for name in ("q", "k", "v"))
results = [kind(q, k, v, causal=True) for kind in (reference_attention, fused_attention)]
[equals_model(result, "mixed") for result in results]

# %% [markdown]
# ## The heads of the trained model
#
# What do the eight heads attend to? For each head, the table has the mean weight of the character
# before, the entropy of its weights, and the increase of the loss if its output is replaced by
# zeros. Weights that don't depend on the text, the same for all visible characters, are the
# baseline.

# %% head_table
batch = run.batch(run.checkpoints[-1])


def loss():
    """Returns the mean loss on the batch of the last step, in nats per character."""
    with torch.no_grad():
        logits = model(batch["tokens"]).flatten(0, 1)
    return float(F.cross_entropy(logits, batch["targets"].flatten()))


with_all, increases = loss(), {}
for layer, head in previous.index:
    with model.replace({f"blocks.{layer}.attention.mixed": heads([head], zero)}):
        increases[layer, head] = loss() - with_all
table = pd.DataFrame(
    {
        "weight of the character before": previous_token_scores(model, batch["tokens"]),
        "entropy": attention_entropy(model, batch["tokens"]),
        "increase of the loss": pd.Series(increases),
    }
)
visible = torch.arange(1, batch["tokens"].shape[1] + 1)  # characters that each query attends to
equal_weights = [float((1 / visible[1:]).mean()), float(visible.log().mean()), None]
table.loc[("equal", "weights"), :] = equal_weights
table.round(2)

# %% head_figure
with torch.no_grad(), model.capture("blocks.*.attention.pattern", rows=0) as seen:
    model(ids)
figure, panels = plt.subplots(2, 4, figsize=(13, 6.8), layout="constrained")
for (layer, head), axes in zip(previous.index, panels.flat, strict=True):
    weights = seen[f"blocks.{layer}.attention.pattern"][head]
    title = f"layer {layer}, head {head}: {previous[layer, head]:.0%} on the one before"
    show(axes, weights, title, cmap="Blues", vmin=0, vmax=1)
panels[0, 0].set(xlabel="key", ylabel="query")
plt.show()

# %% [markdown]
# In the first layer, at least one head attends mostly to the character before, which this task
# needs: two characters predict the next one better than one does.
#
# What this does not show: this is one seed of a model of a hundred thousand parameters after 400
# steps. Other seeds have other heads. A head with sharp weights need not matter, as the last
# column of the table shows. The loss was measured on 768 characters of the training data.
