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
# # A paper reproduced, and its claim checked
#
# Where should the norms of a Transformer be? In the original one they come *after* each residual
# addition (Post-LN), today they come *before* each module (Pre-LN). Xiong et al. (2020, "On Layer
# Normalization in the Transformer Architecture",
# [arXiv:2002.04745](https://arxiv.org/abs/2002.04745)) explain what this changes:
#
# 1. *Theorem 1.* At initialisation, the gradient of the last layer does not depend on the number
#    of layers $L$ in Post-LN; in Pre-LN it falls at least as fast as $1/\sqrt{L}$.
# 2. *Consequence.* Post-LN needs a warm-up of the learning rate, and Pre-LN does not: "Pre-LN
#    Transformers without the warm-up stage can reach comparable results with baselines".
#
# The first claim is one of the papers that come with Étude, and is reproduced with one command. We
# then ask what would have to be true for it to fail, and find a setting of today's models in
# which it does. For the second claim we write a file of our own, with a tolerance and a negative
# control, and let Étude judge it. All of this takes about two minutes on two cores.

# %% start
# %matplotlib inline
import json
import os
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from IPython.display import Image
from torch.nn import functional as F

import etude
from etude.interpret import activation_norms, gradient_norms

# A scratch folder. Without this line the files and records are kept, in the current folder.
os.chdir(tempfile.mkdtemp(prefix="etude-"))
python = sys.executable

# %% [markdown]
# ## The first claim
#
# In a terminal, the command is `etude reproduce layer_norms`. This paper needs no training: the
# gradients of models with 2 to 24 layers are measured at initialisation, with five seeds. Papers
# with runs train those that are missing.

# %% reproduce
# !{python} -m etude reproduce layer_norms | cat

# %% [markdown]
# Both values match. What was measured, compared and concluded is in a folder, with a report.


# %% result
def values_of(paper):
    """Returns a table of the values of a paper's result."""
    result = json.loads(Path(f"experiments/_papers/{paper}/result.json").read_text())
    rows = {}
    for key, cell in result["cells"].items():
        values, controls = result["readings"][key].values()
        rows[key] = {
            "published": cell["published"],
            "mean": np.mean(values),
            "std": np.std(values, ddof=1),
            "tolerance": cell["tolerance"],
            "control": np.mean(controls),
            "verdict": cell["verdict"],
            "seeds": values,
        }
    return pd.DataFrame(rows).T


slopes = values_of("layer_norms")
slopes.drop(columns="seeds")

# %% gradients
Image("experiments/_papers/layer_norms/figures/gradients.png", width=520)

# %% [markdown]
# ## Ours beside the paper's
#
# A verdict depends on a tolerance, so we look at the values themselves: one point for each seed,
# beside the number that follows from the theorem and the range in which we accept a mean. For
# Post-LN the paper states no number for the slope, but that there is no fall.

# %% beside
figure, axes = plt.subplots(figsize=(7.5, 2.6), layout="constrained")
axes.axvspan(-0.65, -0.35, ymin=0.5, color="0.88", label="accepted")
axes.axvspan(-0.1, 0.6, ymax=0.5, color="0.88")
axes.plot([-0.5, -0.5], [0.6, 1.4], color="black", linestyle=":", label="the paper's number")
for y, (key, color) in enumerate({"slope/post": "C1", "slope/pre": "C0"}.items()):
    seeds = slopes.loc[key, "seeds"]
    label = "seeds, with their mean" if y else None
    axes.plot(seeds, [y] * len(seeds), "o", color=color, alpha=0.5, label=label)
    axes.plot(np.mean(seeds), y, "|", color=color, markersize=40, markeredgewidth=2.5)
axes.set(ylim=(-0.5, 1.5), xlim=(-0.9, 0.6), xlabel="slope of log gradient over log layers")
axes.set_yticks([0, 1], labels=["Post-LN", "Pre-LN"])
axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
plt.show()

# %% [markdown]
# The mean of Pre-LN is inside, but lower than -0.5, and single seeds are outside. This does not
# contradict the theorem, which gives an upper bound on the gradient, but "match" says no more
# than that a mean over five seeds is nearer to -0.5 than 0.15. A tolerance of 0.05 would have made
# it a miss. This is why tolerances belong to the claim, and are fixed before the measurement.
#
# ## What would have to be true for it to fail?
#
# The reason in the proof: in Pre-LN, the input of each module is normalised, so each module adds a
# vector of about the same size to the residual stream. After $L$ layers the stream has grown like
# $\sqrt{L}$. The last norm divides by this size, and so is the gradient divided by it. In Post-LN,
# the stream is normalised after each layer and cannot grow.
#
# So the claim should fail if the stream of a Pre-LN model does *not* grow with the depth. The
# initialisation of GPT-2 does this: it divides the output matrix of each module by $\sqrt{2L}$. The
# paper uses Xavier's. These are the choices:

# %% initialisations
etude.choices("model/initialise")

# %% [markdown]
# We build the models from a config, without training, and measure two sizes with
# `etude.interpret`: of the stream after the last layer, and of the gradient of the last matrix.

# %% measure
common = [
    "experiment=debug",
    "model/feedforward=relu",
    "model/mask=bidirectional",
    {"model": {"dim": 128, "heads": 4, "bias": True, "tie_embeddings": False}},
]
depths = [2, 4, 8, 16]


def loss(logits, targets):
    """Returns the mean cross-entropy of random targets, here the ids in reverse order."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flip(1).flatten())


def at_initialisation(block, initialise, seeds=range(3)):
    """Returns the sizes of the stream and the gradient, by the number of layers and the seed."""
    config = etude.compose(*common, {"model/block": block, "model/initialise": initialise})
    rows = {}
    for layers in depths:
        config.model.layers = layers
        for seed in seeds:
            torch.manual_seed(seed)
            model = instantiate(config.model, vocab_size=100)
            ids = torch.randint(100, (16, 32))
            stream = activation_norms(model, ids, sites="blocks.-1.out")
            gradient = gradient_norms(model, ids, loss)
            last = f"blocks.{layers - 1}.feedforward.down.weight"
            rows[layers, seed] = {"stream": stream.item(), "gradient": gradient[last]}
    return pd.DataFrame(rows).T.rename_axis(["layers", "seed"])


cases = {
    "Post-LN, Xavier": ("post_norm", "xavier"),
    "Pre-LN, Xavier": ("pre_norm", "xavier"),
    "Pre-LN, N(0, 0.02)": ("pre_norm", "normal"),
    "Pre-LN, GPT-2": ("pre_norm", "gpt2"),
    "Pre-LN, zero output": ("pre_norm", "zero_output"),
}
sizes = pd.concat({name: at_initialisation(*case) for name, case in cases.items()}, names=["model"])
sizes["stream"].groupby(["model", "layers"], sort=False).mean().unstack().round(2)


# %% slopes
def slope(rows):
    """Returns the slope of the logarithm of each column over that of the number of layers."""
    layers = np.log(rows.index.get_level_values("layers").to_numpy())
    return pd.Series({key: np.polyfit(layers, np.log(rows[key]), 1)[0] for key in rows})


by_seed = sizes.groupby(level=["model", "seed"], sort=False).apply(slope)
by_seed.groupby(level="model", sort=False).agg(["mean", "std"]).round(2)

# %% fails
figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
titles = {
    "stream": r"stream after the last layer (dotted: $\sqrt{L}$)",
    "gradient": r"gradient of the last matrix (dotted: $1/\sqrt{L}$)",
}
for axes, (key, title) in zip(panels, titles.items(), strict=True):
    for name, rows in sizes[key].groupby(level="model", sort=False):
        mean = np.exp(np.log(rows).groupby(level="layers").mean())
        axes.plot(depths, mean / mean.iloc[0], "o-", label=name)
    power = 0.5 if key == "stream" else -0.5
    axes.plot(depths, (np.array(depths) / 2) ** power, "k:")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(depths, labels=depths)
    axes.set(title=title, xlabel="layers L", ylabel="relative to 2 layers")
panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
plt.show()

# %% [markdown]
# The prediction holds. Where the stream grows (Xavier, and normal weights of a fixed size), the
# gradient falls; where the initialisation keeps the stream from growing, the gradient is the same
# at all depths, although the norms are where the paper wants them. The claim is about Pre-LN *and*
# an initialisation without regard to the depth.
#
# ## The second claim
#
# Does Post-LN need a warm-up, and Pre-LN not? A paper is a file with runs, values and
# tolerances. We write one: four arms, three seeds each, with a model small enough for a notebook.
# Each value is the validation loss without warm-up, divided by that with warm-up. Each claim has
# a *negative control*, a case in which it must not hold; here each claim is the control of the
# other. The tolerances are ours, since the paper has no number for a model like this.

# %% experiment
for group in ("experiment", "paper"):
    Path("conf", group).mkdir(parents=True)
Path("conf/experiment/warmup.yaml").write_text(
    """\
# @package _global_
defaults:
  - override /model: nano
  - override /model/initialise: xavier
  - override /schedule: constant
  - override /data: sotu_recent
  - override /data/tokenizer: char

name: warmup
model: {layers: 4, heads: 4, dim: 48}
data: {sequence_length: 32, batch: {examples: 16}, held_out_from: 2019, last_year: 2019}
optimizer: {lr: 8e-3}
schedule: {warmup_steps: 60}
trainer: {max_steps: 100, val_check_interval: 20}
run: {samples: 0}
"""
)
etude.compose("experiment=warmup", config_dir="conf").schedule

# %% paper
Path("conf/paper/warmup.yaml").write_text(
    """\
title: Warm-up of Pre-LN and Post-LN
claim: Post-LN needs a warm-up of the learning rate, and Pre-LN does not
citation: Xiong et al. (2020). On Layer Normalization in the Transformer Architecture. ICML.
link: https://arxiv.org/abs/2002.04745
tier: cpu
cost: about a minute
seeds: [0, 1, 2]

runs:
  post: [experiment=warmup, model/block=post_norm]
  post_cold: [experiment=warmup, model/block=post_norm, schedule.warmup_steps=0]
  pre: [experiment=warmup, model/block=pre_norm]
  pre_cold: [experiment=warmup, model/block=pre_norm, schedule.warmup_steps=0]
smoke: [trainer.max_steps=2, trainer.val_check_interval=2]

measure:
  _target_: etude.papers.readings.Metrics
  values:
    post: {run: post_cold, metric: val/loss, over: {run: post, metric: val/loss}}
    pre: {run: pre_cold, metric: val/loss, over: {run: pre, metric: val/loss}}
  controls:
    post: {run: pre_cold, metric: val/loss, over: {run: pre, metric: val/loss}}
    pre: {run: post_cold, metric: val/loss, over: {run: post, metric: val/loss}}
  curves: [val/loss]

cells:
  - key: post
    says: loss without warm-up over the loss with warm-up, Post-LN
    published: null
    read: 'abstract, in words: the warm-up is essential for Post-LN'
    tolerance: {above: 1.05}
    because: ours; 5 % are more than the seeds differ with warm-up
    control: Pre-LN
  - key: pre
    says: the same, Pre-LN
    published: null
    read: 'abstract, in words: without the warm-up, results are comparable'
    tolerance: {below: 1.05}
    because: the same 5 %
    control: Post-LN
"""
)
sorted(str(path) for path in Path("conf").rglob("*.yaml"))

# %% [markdown]
# Twelve runs, two at a time. If the command is interrupted, the same command continues. With
# `--smoke` it would train two steps of each run, to find errors in the files.

# %% reproduce_own
# !{python} -m etude reproduce warmup --config-dir conf --jobs 2 2>&1 | tail -8

# %% own_result
warmup = values_of("warmup")
warmup.drop(columns="seeds")

# %% own_figure
Image("experiments/_papers/warmup/figures/curves.png", width=520)

# %% [markdown]
# Without warm-up, the loss of Post-LN stays near 3.1 nats, that of guessing from how frequent each
# character is: the model uses no context. The thin lines are the seeds.
#
# ## Under which conditions?
#
# The explanation was that a *large* learning rate times a large gradient makes the training
# unstable. Then Post-LN should not need a warm-up if the learning rate is low. The runs of the
# paper are ordinary runs: a sweep over two learning rates reuses the six that are there, and
# trains six.

# %% sweep
runs = etude.sweep(
    "experiment=warmup",
    {
        "model/block": ["post_norm"],
        "optimizer.lr": [8e-3, 2e-3],
        "schedule.warmup_steps": [0, 60],
        "seed": range(3),
    },
    config_dir="conf",
)
groups = runs.group("val/loss", by=["optimizer.lr", "schedule.warmup_steps"])
groups.frame().round(3)

# %% rates
groups.plot("val/loss")

# %% [markdown]
# ## What we know
#
# | claim | here | fails if |
# | --- | --- | --- |
# | Pre-LN: the gradient falls with the depth | match | the stream does not grow (GPT-2's weights) |
# | Post-LN needs a warm-up, Pre-LN does not | match | the learning rate is low |
#
# At the low rate, Post-LN has the lowest loss without warm-up: the warm-up only costs steps.
#
# What this does not show: the paper trains models for translation and BERT; ours have 4 layers,
# 0.1 million parameters, 100 steps and three seeds. The tolerances of the second claim are ours,
# and so is its learning rate. We tried three: without warm-up, Post-LN failed with none of three
# seeds at 0.004, with two at 0.006, and with all at 0.008. That the first claim *explains* the
# second is not shown by either: the initialisation of GPT-2 removes the fall of the gradient, and
# such models are trained without trouble.
#
# `etude reproduce` without a name lists all papers with their verdicts; the page "Papers of your
# own" describes the file.
