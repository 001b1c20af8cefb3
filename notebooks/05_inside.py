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
# # Inside: induction heads
#
# A language model that reads "Port Orvale ... Port" can guess the next word, although it never saw
# this name in training: it looks for the earlier "Port" and copies the word after it. In
# Transformers, attention heads do this. Elhage et al. (2021, [A Mathematical Framework for
# Transformer Circuits](https://transformer-circuits.pub/2021/framework/index.html)) call them
# *induction heads*, and Olsson et al. (2022,
# [arXiv:2209.11895](https://arxiv.org/abs/2209.11895)) show that they form suddenly, early in
# training.
#
# An induction head needs two layers. A head of the first layer writes into each position which
# token came before it. A head of the second layer then looks for the position whose *previous*
# token is the current one, and copies the token there. One layer cannot do this.
#
# Three questions, each answered with three seeds:
#
# 1. When do induction heads form, and do models with one layer have them?
# 2. Does the model need them? We remove heads from trained models, and measure what is lost.
# 3. Where does it fail? The last part shows models in which the same experiment finds nothing.

# %% start
import itertools
import logging
import os
import tempfile

import matplotlib.pyplot as plt
import pandas as pd
import torch

import etude
from etude.activations import heads, mean, zero
from etude.interpret import induction_scores, previous_token_scores

# A scratch folder. Without this line the records are kept, in ./experiments.
os.chdir(tempfile.mkdtemp(prefix="etude-"))
# Without the messages of nine runs.
logging.getLogger("etude").setLevel("WARNING")

# %% [markdown]
# ## The models
#
# `experiment=induction` trains attention without feed-forward modules on random tokens that repeat
# after 8 to 24 positions; the period changes from sequence to sequence. The tokens are random, so
# nothing about them can be memorised. Only the repetition can be predicted.
#
# The positions are those of ALiBi (Press et al. 2021,
# [arXiv:2108.12409](https://arxiv.org/abs/2108.12409)): a head's score of a key is lowered by a
# fixed slope times the distance. The four heads of a layer have the slopes 1/4, 1/16, 1/64 and
# 1/256, so that head 0 sees mostly its neighbours, and head 3 the whole text. The part on
# redundancy says why we do not use learned positions here.
#
# We compare two layers with one, and train each with the seeds 0, 1 and 2. A checkpoint is kept
# every 20 steps.

# %% train
settings = [
    "experiment=induction",
    "data.batch.examples=32",
    "data.validation=200",
    "optimizer.lr=4e-3",
    "trainer.max_steps=600",
    "trainer.val_check_interval=20",
    "run.save_every=20",
    "run.keep_every=20",
    "run.samples=0",
]
arms = {
    "two_layers": ["model/position=alibi"],
    "one_layer": ["model/position=alibi", "model.layers=1"],
    "learned_positions": ["model/position=learned"],  # for the last part
}
runs = {
    name: etude.sweep(*settings, *changes, f"name={name}", "seed=0,1,2")
    for name, changes in arms.items()
}

# %% [markdown]
# The accuracy counts only tokens that are repeated, so 1 is possible; there are 64 tokens, so
# chance is 0.016. A model with one layer is better than chance, as it can guess among the tokens
# that have occurred.

# %% accuracy
pd.DataFrame(
    {name: group.frame().set_index("seed")["val/accuracy"] for name, group in runs.items()}
).round(3)

# %% [markdown]
# ## When the heads form
#
# `induction_scores` lets a model read random tokens twice in a row. The score of a head is its mean
# weight from a token of the second half to the token after its first occurrence: 1 for a perfect
# induction head. `over_steps` measures all checkpoints of all runs.

# %% scores
options = {"length": 24, "sequences": 32}
scores = {
    name: group.over_steps(induction_scores, **options).droplevel("label")
    for name, group in runs.items()
}
best = {name: values.groupby(["seed", "step"]).max() for name, values in scores.items()}
pd.DataFrame({name: values.unstack("seed").loc[600] for name, values in best.items()}).round(2)


# %% curves
def band(axes, values, label, **style):
    """Draws the mean over seeds, and a band from the lowest to the highest seed."""
    table = values.unstack("seed")
    (line,) = axes.plot(table.index, table.mean(axis=1), label=label, **style)
    low, high = table.min(axis=1), table.max(axis=1)
    axes.fill_between(table.index, low, high, alpha=0.25, color=line.get_color(), lw=0)


def losses(group):
    """Returns the validation loss by seed and step."""
    curves = {run.config.seed: run.metrics.set_index("step")["val/loss"].dropna() for run in group}
    return pd.concat(curves, names=["seed"])


labels = {"two_layers": "two layers", "one_layer": "one layer"}
figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for name, label in labels.items():
    band(panels[0], best[name], label)
    band(panels[2], losses(runs[name]), label)
slopes = ["1/4", "1/16", "1/64", "1/256"]
colours = plt.colormaps["viridis"]([0.0, 0.35, 0.6, 0.85])
for head, slope in enumerate(slopes):
    values = scores["two_layers"].xs((1, head), level=["layer", "head"])
    band(panels[1], values, f"head {head} (slope {slope})", color=colours[head])
panels[0].set(title="induction score of the best head", ylim=(0, 1))
panels[1].set(title="two layers: heads of layer 1", ylim=(0, 1))
panels[2].set(title="validation loss", ylabel="nats per token", ylim=(0, None))
for axes in panels:
    axes.set(xlabel="step", xlim=(0, 600))
    axes.legend()
    axes.grid(alpha=0.3)
figure.suptitle("mean over three seeds; bands from the lowest to the highest seed")
plt.show()

# %% [markdown]
# In little more than 100 steps, the scores rise from almost 0 to their final height, and the loss
# falls in the same steps. With one layer, neither happens. In layer 1, the two heads that see far
# become induction heads in all three seeds, and the other two do not.
#
# How close are the two events? For each seed, the first checkpoint at which the best head has a
# score above 0.3, and the first at which half of the fall of the loss is over:

# %% moment
step_of_score = best["two_layers"].gt(0.3).groupby("seed").agg(lambda above: above.idxmax()[1])
loss = losses(runs["two_layers"])
middle = (loss.groupby("seed").first() + loss.groupby("seed").last()) / 2
half = loss.lt(middle.reindex(loss.index, level="seed"))
step_of_loss = half.groupby("seed").agg(lambda below: below.idxmax()[1])
pd.DataFrame({"score above 0.3": step_of_score, "half of the loss": step_of_loss})

# %% [markdown]
# ## What the heads attend to
#
# The same twelve random tokens twice, read by the model of seed 0. A row is a query, a column a
# key; circles mark the token after the earlier occurrence, where an induction head should look.

# %% patterns
models = {run.config.seed: run.model("last") for run in runs["two_layers"]}
last = scores["two_layers"].xs(600, level="step")  # by seed, layer and head

generator = torch.Generator().manual_seed(5)
tokens = torch.randperm(64, generator=generator)[:12].repeat(2)
with torch.no_grad(), models[0].capture("blocks.*.attention.pattern") as seen:
    models[0](tokens[None])

previous = previous_token_scores(models[0], length=24)
shown = [(0, previous[0].idxmax()), (1, last[0, 1].idxmax()), (1, last[0, 1].idxmin())]
titles = ["most weight on the token before", "highest induction score", "lowest induction score"]
figure, panels = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
for axes, (layer, head), title in zip(panels, shown, titles, strict=True):
    weights = seen[f"blocks.{layer}.attention.pattern"][0, head]
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(f"layer {layer}, head {head}: {title}", fontsize=10)
    axes.set_xticks(range(24), tokens.tolist(), fontsize=6.5)
    axes.set_yticks(range(24), tokens.tolist(), fontsize=6.5)
    axes.axhline(11.5, color="grey", lw=0.6)
    axes.axvline(11.5, color="grey", lw=0.6)
    if layer == 1:
        axes.plot(range(1, 13), range(12, 24), "o", mfc="none", mec="tab:red", ms=9)
panels[0].set(xlabel="key", ylabel="query")
figure.colorbar(image, ax=panels, shrink=0.8, label="attention weight")
plt.show()

# %% [markdown]
# The best head finds nearly all of its targets; it misses the first one and hesitates at another.
# The head with the lowest score mostly reads the current token.
#
# ## Does the model need them?
#
# A score only says where a head looks. To see whether its output is used, we remove it: `zero`
# replaces a head's output by zeros while the model reads new random tokens that are repeated, and
# we count the correct guesses in the second half. These tokens differ from those of the scores, by
# which the heads are chosen.


# %% ablation
def accuracy(model, layer=1, removed=(), edit=zero, length=24, sequences=200):
    """Returns the accuracy on the second half of repeated random tokens, without some heads."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(64, (sequences, length), generator=generator).repeat(1, 2)
    change = {f"blocks.{layer}.attention.mixed": heads(list(removed), edit)} if removed else {}
    with torch.no_grad(), model.replace(change):
        guesses = model(ids)[:, length:-1].argmax(-1)
    return float((guesses == ids[:, length + 1 :]).float().mean())


def pairs(seed, layer=1):
    """Yields all pairs of heads of a layer, and how many of the two best heads each contains."""
    best_two = set(last[seed, layer].nlargest(2).index)
    for pair in itertools.combinations(range(4), 2):
        yield pair, len(best_two & set(pair))


contents = {2: "the two best heads", 1: "one of the best, one other", 0: "the two others"}
rows = []
for seed, model in models.items():
    for edit in (zero, mean):
        rows.append((seed, str(edit), "no head", accuracy(model)))
        for pair, count in pairs(seed):
            rows.append((seed, str(edit), contents[count], accuracy(model, 1, pair, edit)))
ablated = pd.DataFrame(rows, columns=["seed", "edit", "removed", "accuracy"])

# %% [markdown]
# Each layer has six pairs of heads. The two *best* are those with the highest induction scores at
# the end of training, and the two *others* the remaining ones. Four pairs contain one of each; for
# these we average over the pairs. `mean` is a milder edit: it replaces a head's output by its mean
# over the texts, so only what depends on the text is lost. The table has the mean over three seeds,
# and the lowest and highest seed.

# %% ablation_table
by_seed = ablated.groupby(["edit", "removed", "seed"])["accuracy"].mean()
order = ["no head", *reversed(contents.values())]
table = by_seed.groupby(["edit", "removed"]).agg(["mean", "min", "max"])
table.reindex(order, level="removed").round(3)

# %% [markdown]
# Without the two best heads, the accuracy is near chance. Without the two others of the same layer,
# the model is nearly as good as before, although as many heads are missing. With one of the two
# best heads, about three quarters of the guesses are still right. The two edits agree.
#
# ## What the heads build on
#
# The second half of the explanation: the heads of layer 1 can only find the token *after* an
# earlier occurrence if layer 0 has written there which token came before. So we remove heads of
# layer 0, one at a time, and measure the accuracy and the best induction score in layer 1.

# %% composition
rows = []
for seed, model in models.items():
    for head in range(4):
        with model.replace({"blocks.0.attention.mixed": heads([head], zero)}):
            score = induction_scores(model, **options)[1].max()
        rows.append((seed, head, accuracy(model, 0, [head]), score))
columns = ["seed", "head", "accuracy", "induction score"]
composition = pd.DataFrame(rows, columns=columns).set_index(["seed", "head"])
previous = pd.concat({s: previous_token_scores(m, length=24)[0] for s, m in models.items()})
composition.insert(0, "weight on the token before", previous)
composition.groupby("head").mean().round(2)


# %% ablation_figure
def bars(axes, values, places):
    """Draws a bar for each mean over seeds, and a point for each seed."""
    for x, place in enumerate(places):
        seeds = values[place]
        axes.bar(x, seeds.mean(), color="tab:blue", alpha=0.5, width=0.65)
        axes.plot([x - 0.15, x, x + 0.15], seeds, "o", color="tab:blue", ms=4)
        axes.text(x, seeds.max() + 0.04, f"{seeds.mean():.2f}", ha="center", fontsize=9)
    axes.set_ylim(0, 1.12)


figure, panels = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained", sharey=True)
bars(panels[0], by_seed["zero"], order)
panels[0].set_xticks(range(4), ["no head", "two\nothers", "one best,\none other", "two\nbest"])
panels[0].set(title="accuracy without heads of layer 1", ylabel="accuracy or score")
by_head = composition.swaplevel().sort_index()
ticks = [f"head {head}\n({slope})" for head, slope in enumerate(slopes)]
for axes, column in zip(panels[1:], columns[2:], strict=True):
    bars(axes, by_head[column], range(4))
    axes.set_xticks(range(4), ticks)
panels[1].set_title("accuracy without one head of layer 0")
panels[2].set_title("best induction score, without that head")
figure.suptitle("bars: mean over three seeds; points: the seeds; in brackets: the head's slope")
plt.show()

# %% [markdown]
# Without head 0, which gives the token before the most weight, the heads of layer 1 no longer find
# their targets: the accuracy and their scores fall together. Each other head of layer 0 can go.
# Head 0 is a blurred version of the previous-token heads in the literature, since ALiBi fixes how
# fast its weights fall with the distance.
#
# ## Where this fails: redundancy
#
# The result is not general. Here are the same models with learned positions, in which every head
# can look anywhere. We remove the heads of layer 1 one after another, by their scores: the best
# first, or the best last.

# %% redundancy
finals = {name: scores[name].xs(600, level="step") for name in ("two_layers", "learned_positions")}
loaded = {"two_layers": models}
loaded["learned_positions"] = {r.config.seed: r.model("last") for r in runs["learned_positions"]}
rows = []
for name, final in finals.items():
    for seed, model in loaded[name].items():
        ranking = list(final[seed, 1].sort_values(ascending=False).index)
        for first, sequence in (("best first", ranking), ("best last", ranking[::-1])):
            for count in range(5):
                value = accuracy(model, 1, sequence[:count])
                rows.append((name, first, seed, count, value))
removals = pd.DataFrame(rows, columns=["name", "order", "seed", "removed", "accuracy"])
removals = removals.set_index(["name", "order", "seed", "removed"])["accuracy"].sort_index()
removals.groupby(["name", "order", "removed"]).mean().unstack("removed").round(2)

# %% redundancy_figure
titles = {"two_layers": "ALiBi", "learned_positions": "learned positions"}
figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
for x, name in enumerate(titles):
    values = finals[name].xs(1, level="layer")
    ranked = values.groupby("seed").transform(lambda each: each.rank(ascending=False))
    shift = 0.12 * (2 * x - 1)
    panels[0].plot(ranked + shift, values, "o", label=titles[name], alpha=0.7)
    for order_name in ("best first", "best last"):
        band(panels[x + 1], removals[name, order_name], order_name, marker="o")
    panels[x + 1].set(title=titles[name], xlabel="removed heads of layer 1", ylabel="accuracy")
panels[0].set(title="heads of layer 1", xlabel="rank in its model", ylabel="induction score")
for axes in panels:
    axes.set(ylim=(-0.03, 1.05))
    axes.set_xticks(range(5) if axes is not panels[0] else range(1, 5))
    axes.legend()
    axes.grid(alpha=0.3)
figure.suptitle("three seeds of each")
plt.show()

# %% [markdown]
# With learned positions all four heads of layer 1 become induction heads, and each does the work of
# the others. To remove the two best then changes almost nothing, which does *not* mean that the
# model has no use for them. Ablation of a few heads finds what a model needs only if the others
# cannot replace them; Singh et al. (2024, [arXiv:2404.07129](https://arxiv.org/abs/2404.07129))
# study this redundancy.
#
# ## What this does not show
#
# - These are three seeds of one small model, on random tokens. The bands show that nothing depends
#   on one lucky seed; they are no confidence intervals.
# - The setting was chosen. With seed 0 we first tried relative and rotary positions, larger initial
#   weights, more weight decay and a larger vocabulary. In models that solved the task, all four
#   heads of layer 1 became induction heads, and two could be removed. ALiBi and all other values
#   were fixed before the seeds 1 and 2 of these models were trained.
# - That two of four heads become induction heads is a result about ALiBi and these periods. Which
#   heads other models use, and how many, must be measured there.
# - Large models learn much else at the same time, and one head can do several things.
#
# The same measures work on any run: `run.over_steps(induction_scores)` after training, or
# `callbacks=induction_scores` during training. The guide "Look inside a model" lists the others.
