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
# # Released weights: in, inspected, adapted, out
#
# `etude.load_pretrained("gpt2")` loads GPT-2 from the Hugging Face Hub. This notebook works
# without a network: it makes its own small GPT-2, as a folder in the same format, and loads it
# with the same call. You can put the id of a model on the Hub in its place.
#
# Does the model compute the same as in `transformers`? Which of its layers write a predicted
# token? We then adapt it with LoRA to a text of another kind, measure what it gains and what it
# forgets, find out which layers did it, and give the result back to `transformers`.

# %% start
# %matplotlib inline
import itertools
import os
import sys  # noqa: F401 (the lines that begin with ! use it)
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
import transformers

import etude
from etude.activations import mean
from etude.interpret import cka, lens_logits, logit_attribution, update_norms, weight_norms

transformers.logging.disable_progress_bar()

# A scratch folder. Without this line the files and records are kept, in the current folder.
os.chdir(tempfile.mkdtemp(prefix="etude-"))

# %% [markdown]
# ## Weights to release
#
# A GPT-2 with 4 layers of width 128 learns from the State of the Union messages of 1860 to 1939.
# `~experiment` leaves out the default experiment file, and `run.exportable` makes sure before the
# training that `transformers` has a class for this model.

# %% pretrain
speeches = etude.train(
    etude.compose(
        "~experiment",
        "name=speeches",
        "model=gpt2",
        {"model": {"layers": 4, "heads": 4, "dim": 128, "dropout": 0.0}},
        {"model": {"max_length": 64, "vocab_size": None}},
        "data/tokenizer=bpe",
        {"data": {"first_year": 1860, "held_out_from": 1940, "last_year": 1945}},
        "optimizer=muon",
        "optimizer.lr=0.03",
        "optimizer.adamw_lr=0.015",
        "schedule.warmup_steps=30",
        "trainer.max_steps=280",
        "trainer.val_check_interval=140",
        "run.exportable=true",
        "run.samples=0",
    )
)

# %% [markdown]
# `etude convert` writes the folder, and compares the logits before it does.

# %% release
# !{sys.executable} -m etude convert speeches small_gpt2

# %% [markdown]
# ## In
#
# From here on we only have the folder. It contains a config, weights and a tokenizer, and no code.

# %% load
model = etude.load_pretrained("small_gpt2")
sizes = {path.name: path.stat().st_size / 1e6 for path in sorted(Path("small_gpt2").iterdir())}
pd.Series(sizes, name="MB").round(3).to_frame()

# %% [markdown]
# Étude reads the weights into its own modules. `transformers` reads the same folder into its
# classes. The tokens must be equal, and the logits equal up to rounding.


# %% same
def in_transformers(folder, text):
    """Returns the token ids (T,) and logits (T, V) of a text in `transformers`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids[0].tolist(), peer(ids).logits[0]


text = "The Government of the United States has the power to make treaties."
ids = model.tokenizer.encode(text)
with torch.no_grad():
    logits = model(ids)
their_ids, their_logits = in_transformers("small_gpt2", text)
ids == their_ids, torch.allclose(logits, their_logits, atol=1e-4)

# %% [markdown]
# ## Inspected
#
# Every intermediate value has a name. These are the ones of the first layer.

# %% sites
sites = model.sites()
sites[sites["site"].str.startswith("blocks.0.")]

# %% [markdown]
# The *logit lens* (nostalgebraist 2020) asks what the model would predict if it stopped after a
# layer: the final norm and the output matrix are applied to that layer's output. With `capture`
# these are three lines, and `lens_logits` is the same for all layers.

# %% lens_by_hand
with torch.no_grad(), model.capture("embed", "blocks.*.out") as seen:
    model(ids)
after_layer = {
    name: model.module.norm(value[0]) @ model.module.embedding.weight.T
    for name, value in seen.items()
}
by_hand = torch.stack(list(after_layer.values()))
torch.allclose(by_hand, lens_logits(model, ids)[:, 0], atol=1e-4)

# %% [markdown]
# The colour is the probability of the token that really follows. The text is the most likely
# token after each layer (`␣` is a space, `�` an incomplete character).


# %% lens
def show_lens(axes, model, text, title):
    """Draws the predictions after each layer, with a column for each next token of a text."""
    ids = model.tokenizer.encode(text)
    probabilities = lens_logits(model, ids)[:, 0, :-1].softmax(-1)  # (layers + 1, T - 1, V)
    layers, columns, _ = probabilities.shape
    tokens = [model.tokenizer.decode([i]).replace(" ", "␣") for i in ids]
    right = probabilities.gather(-1, torch.tensor(ids[1:]).expand(layers, -1)[..., None])[..., 0]
    image = axes.imshow(right, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for layer in range(layers):
        for column in range(columns):
            best = model.tokenizer.decode([int(probabilities[layer, column].argmax())])
            colour = "white" if right[layer, column] > 0.6 else "black"
            label = best.replace(" ", "␣").replace("\n", "⏎")
            axes.text(column, layer, label, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(
        range(columns), [f"{a}\n→ {b}" for a, b in itertools.pairwise(tokens)], fontsize=8
    )
    axes.set_yticks(range(layers), ["embedding", *(f"layer {i}" for i in range(layers - 1))])
    axes.set_title(title, fontsize=10)
    return image


figure, axes = plt.subplots(figsize=(13, 3.2), layout="constrained")
image = show_lens(axes, model, text, "the most likely next token after each layer")
figure.colorbar(image, ax=axes, label="probability of the next token")
plt.show()

# %% [markdown]
# The token after "United" is the clearest one. Which part of the model wrote it? The stream of a
# position is the sum of the embedding and the outputs of all heads and feed-forward modules, so the
# difference of two logits is a sum over these parts. We compare " States" with the token that the
# embedding alone predicts.

# %% attribution
prompt = "The Government of the United"
(target,) = model.tokenizer.encode(" States")
against = int(lens_logits(model, prompt)[0, 0, -1].argmax())
parts = logit_attribution(model, prompt, target, against=against)
with torch.no_grad():
    last = model(model.tokenizer.encode(prompt))[-1]
print(f"instead of {model.tokenizer.decode([against])!r}")
print(f"sum of all parts {parts.sum():.3f}, difference {last[target] - last[against]:.3f}")
parts.sort_values(ascending=False).rename("adds").head(6).round(2).to_frame()

# %% [markdown]
# The feed-forward modules write it, and attention adds little: the token before is enough for this
# prediction. An attribution counts only what a part writes directly. So we also replace the output
# of each module by its mean over the positions, and read the probability of " States".

# %% ablation
branches = ("attention", "feedforward")
probabilities = pd.DataFrame(index=pd.RangeIndex(4, name="layer"), columns=branches, dtype=float)
for layer in range(4):
    for branch in branches:
        with torch.no_grad(), model.replace({f"blocks.{layer}.{branch}.out": mean}):
            changed = model(model.tokenizer.encode(prompt))[-1].softmax(-1)
        probabilities.loc[layer, branch] = float(changed[target])
print(f"with all parts: {float(last.softmax(-1)[target]):.3f}")
probabilities.round(3)

# %% [markdown]
# Without the feed-forward module of layer 0 the prediction is lost, although this module adds no
# more to the logit than the later ones do. The later modules depend on its output.
#
# Three continuations of one prompt, sampled from the most likely tokens that together have 90 %
# of the probability. A model of this size learns the words of the speeches, but not to write.

# %% generate
writing = {"samples": 3, "max_new_tokens": 40, "temperature": 0.8, "top_p": 0.9, "seed": 0}
for continuation in model.generate("The value of the", **writing):
    print(repr(continuation))

# %% [markdown]
# ## Adapted
#
# The new text is the reference manual of the Python language, which comes with Python. We keep
# the paragraphs of prose, each once. The last tenth is held out.

# %% manual
paragraphs = []
for paragraph in "\n\n".join(topics.values()).split("\n\n"):
    is_code = paragraph[:1].isspace()
    if not is_code and paragraph.endswith((".", ":")):
        plain = paragraph.encode("ascii", "ignore").decode()
        paragraphs.append(" ".join(plain.split()))
manual = "\n\n".join(dict.fromkeys(paragraphs))
Path("manual.txt").write_text(manual)
print(f"{len(manual):,} characters\n\n{manual[-300:]}")

# %% [markdown]
# LoRA (Hu et al. 2021, [arXiv:2106.09685](https://arxiv.org/abs/2106.09685)) freezes the weights
# and trains an update of low rank for each matrix. The model and the tokenizer are those of the
# folder in `init_from`.

# %% finetune
adapted_run = etude.train(
    etude.compose(
        "~experiment",
        "name=manual",
        "init_from=small_gpt2",
        "init_from.lora.rank=8",
        "init_from.lora.targets=[qkv,out,up,down]",
        "data=text_files",
        "data.path=manual.txt",
        "optimizer.lr=0.01",
        "schedule.warmup_steps=10",
        "trainer.max_steps=180",
        "trainer.val_check_interval=90",
        "run.samples=0",
    )
)
adapted = adapted_run.model()

# %% [markdown]
# The loss on text that was held out, of the manual and of the speeches, before and after.


# %% losses
def token_losses(model, batches):
    """Returns a table of all targets: the token before, the target, and the loss in nats."""
    rows = []
    for batch in batches:
        with torch.no_grad():
            logits = model(batch["tokens"]).flatten(0, 1)
        tokens, targets = batch["tokens"].flatten(), batch["targets"].flatten()
        losses = F.cross_entropy(logits, targets, reduction="none")
        rows.append(pd.DataFrame({"token": tokens, "target": targets, "loss": losses}))
    return pd.concat(rows, ignore_index=True)


held_out = {"manual": list(adapted_run.data("val")), "speeches": list(speeches.data("val"))}
models = {"released": model, "adapted": adapted}
losses = {(t, m): token_losses(models[m], held_out[t]) for t in held_out for m in models}
means = pd.Series({key: table["loss"].mean() for key, table in losses.items()}).unstack()
means = means[list(models)]
means.assign(change=means["adapted"] - means["released"]).round(2)

# %% [markdown]
# The loss on the manual falls a lot, and the loss on the speeches rises: the model forgets. Which
# pairs of tokens did it learn? These are pairs of the held-out text with the largest total gain.

# %% gains
pairs = losses["manual", "released"].rename(columns={"loss": "released"})
pairs["adapted"] = losses["manual", "adapted"]["loss"]
pairs["gain"] = pairs["released"] - pairs["adapted"]
for column in ("token", "target"):
    pairs[column] = [repr(model.tokenizer.decode([i])) for i in pairs[column]]
columns = {"count": ("gain", "size"), "released": ("released", "mean")}
columns |= {"adapted": ("adapted", "mean"), "total gain": ("gain", "sum")}
by_pair = pairs.groupby(["token", "target"]).agg(**columns)
words = [index for index in by_pair.index if all(part.strip("' ").isalpha() for part in index)]
by_pair.loc[words].nlargest(10, "total gain").round(2)

# %% [markdown]
# The tokenizer is that of the speeches, so words of the manual are several tokens: " se", "qu",
# "ence". The model learned which tokens follow each other in these words. Its continuations of the
# same prompt now have the words and the punctuation of the manual:

# %% generate_adapted
for continuation in adapted.generate("The value of the", **writing):
    print(repr(continuation))

# %% [markdown]
# ## What changed, and where?
#
# The size of each update relative to the size of the weights (root mean squares), and the
# similarity of the outputs of the layers before and after (CKA, 1 is equal).

# %% changed
relative = (update_norms(adapted, model) / weight_norms(model))[lambda ratio: ratio > 0]
relative.index = relative.index.str.split(".", expand=True)  # blocks, layer, module, matrix, weight
where = relative.droplevel([0, 4]).unstack([1, 2]).rename_axis("layer")
for name, batches in held_out.items():
    where["CKA", name] = cka(model, adapted, batches[0]["tokens"][:32]).to_numpy()
where.round(3)

# %% [markdown]
# Most feed-forward matrices changed more than those of attention. The outputs differ more on the
# manual than on the speeches, as they should.
#
# The size of a change is not its effect. To measure the effect, we exchange layers: the loss on
# the manual with only one layer adapted, and with all but one.


# %% exchanged
def with_adapted(layers):
    """Returns the released model with some layers of the adapted one."""
    mixed = etude.load_pretrained("small_gpt2")
    for layer in layers:
        mixed.module.blocks[layer].load_state_dict(adapted.module.blocks[layer].state_dict())
    return mixed


def manual_loss(layers):
    """Returns the loss on the held-out part of the manual with these layers adapted."""
    return token_losses(with_adapted(layers), held_out["manual"])["loss"].mean()


exchanged = pd.DataFrame(
    {
        "only this layer": [manual_loss([layer]) for layer in range(4)],
        "all but this layer": [manual_loss({0, 1, 2, 3} - {layer}) for layer in range(4)],
    },
    index=pd.RangeIndex(4, name="adapted"),
)
exchanged.round(2)

# %% [markdown]
# The effect is spread over the layers: none alone has half of the gain, and the loss rises without
# any of them. The lens shows at which layer the tokens of the new words appear.

# %% lenses
sentence = "It returns a dictionary or a sequence of functions."
figure, panels = plt.subplots(2, 1, figsize=(13, 6.2), layout="constrained")
for axes, (name, each) in zip(panels, models.items(), strict=True):
    image = show_lens(axes, each, sentence, f"{name}: the most likely next token after each layer")
figure.colorbar(image, ax=panels, label="probability of the next token")
plt.show()

# %% [markdown]
# Which part writes "qu" after " se"? We compare its logit with that of the token that the released
# model predicts here.

# %% attributions
prompt = "It returns a se"
(target,) = model.tokenizer.encode("qu")
with torch.no_grad():
    against = int(model(model.tokenizer.encode(prompt))[-1].argmax())


def parts_of(model):
    """Returns what each part adds to the difference of the two logits, the heads as one."""
    parts = logit_attribution(model, prompt, target, against=against)
    names = {"head": "attention", "attention bias": "attention"}
    rows = parts.reset_index(name="adds").replace({"component": names})
    rows["part"] = [
        component if layer < 0 else f"{component} {layer}"
        for component, layer in zip(rows["component"], rows["layer"], strict=True)
    ]
    return rows.groupby("part", sort=False)["adds"].sum()


attributions = pd.DataFrame({name: parts_of(each) for name, each in models.items()})
other = model.tokenizer.decode([against])
axes = attributions.plot.bar(figsize=(11, 4), rot=30, color=["grey", "tab:orange"])
axes.grid(alpha=0.3)
axes.axhline(0, color="black", linewidth=0.8)
axes.set(xlabel="", ylabel="adds to the difference of the logits")
sums = ", ".join(f"{name} {total:.1f}" for name, total in attributions.sum().items())
axes.set_title(f"'qu' against {other!r} after {prompt!r}; sums: {sums}", fontsize=10)
plt.show()
attributions.groupby(attributions.index.str.split().str[0]).sum().round(2)

# %% [markdown]
# In the released model the feed-forward modules favour the other token; in the adapted model they
# favour "qu".
#
# ## Out
#
# We export the adapted model twice: as a folder for `transformers`, with LoRA's updates merged into
# the weights, and as an adapter in the format of `peft`, which contains only the updates.

# %% convert
# !{sys.executable} -m etude convert manual adapted_gpt2
# !{sys.executable} -m etude convert manual adapter --adapter

# %% out
ids = adapted.tokenizer.encode(sentence)
from_adapter = etude.load_pretrained("small_gpt2", adapter="adapter")
with torch.no_grad():
    logits, adapter_logits = adapted(ids), from_adapter(ids)
their_ids, their_logits = in_transformers("adapted_gpt2", sentence)
for file in ("adapted_gpt2/model.safetensors", "adapter/adapter_model.safetensors"):
    print(f"{file}: {Path(file).stat().st_size / 1e6:.2f} MB")
pd.Series(
    {
        "the same tokens in transformers": ids == their_ids,
        "the same logits in transformers": torch.allclose(logits, their_logits, atol=1e-4),
        "the same logits from the adapter": torch.allclose(logits, adapter_logits, atol=1e-4),
    },
    name="",
).to_frame()

# %% [markdown]
# The path from a folder to a folder is complete: loaded, inspected, adapted and exported, with the
# same logits at both ends. With a network, `etude.load_pretrained("gpt2")` and `init_from=gpt2` are
# the only lines to change; BERT, Llama, Qwen and others work in the same way.
#
# What this does not show: this is one seed of a model of a million parameters, trained for 280
# steps on 200 thousand tokens, so the sizes of all effects are those of this model. A larger model
# uses attention more for its predictions, and a logit lens is less reliable in early layers. Rank
# and learning rate of LoRA were tried by hand on the same held-out text.
