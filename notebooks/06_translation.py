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
# # Translation: cross-attention as alignment, beams
#
# An encoder-decoder reads an English text and writes a Chinese one. The cross-attention of its
# decoder reads the source, so a head could show which English word a Chinese word comes from. Does
# it, in a model that was never given an alignment? And how much does beam search improve on taking
# the most probable token at each step?
#
# The data is small and real: the menus and messages of JupyterLab and their Chinese translations,
# from the package `jupyterlab-language-pack-zh-CN` (`pip install 'etude[corpora]'`). We use its
# short strings only. A model of 0.7 million parameters learns them in about a minute.

# %% start
import json
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import sacrebleu
import torch
from IPython.utils.capture import capture_output

import etude
from etude.activations import zero
from etude.fonts import add_fallbacks
from etude.generation.generate import generate

add_fallbacks()  # a font with Chinese characters, for the figures
os.chdir(tempfile.mkdtemp(prefix="etude-"))  # without this line, the records stay in ./experiments

# %% [markdown]
# ## Pairs
#
# A catalog is a JSON file that maps English messages to lists of Chinese ones. We keep messages of
# at most eight words, with at most twenty characters in Chinese.

# %% pairs
package = Path(find_spec("jupyterlab_language_pack_zh_CN").origin).parent
found = {}
for catalog in sorted(package.glob("locale/zh_CN/LC_MESSAGES/*.json")):
    messages = json.loads(catalog.read_text("utf-8"))
    messages.pop("", None)  # the entry of the empty message describes the file
    for message, translations in messages.items():
        en, zh = message.rpartition("\x04")[2].strip(), translations[0].strip()
        if zh and en != zh and len(en.split()) <= 8 and len(zh) <= 20:
            found.setdefault(en, zh)
pairs = pd.DataFrame(sorted(found.items()), columns=["en", "zh"])
pairs = pairs.sample(frac=1, random_state=0, ignore_index=True)
validation, training = pairs[:300], pairs[300:]
for name, rows in (("train", training), ("validation", validation)):
    rows.to_json(f"{name}.jsonl", orient="records", lines=True, force_ascii=False)
len(training), len(validation)

# %% examples
training.head(8)

# %% [markdown]
# ## Train
#
# `experiment=translate_en_zh` is a shipped experiment; the overrides select our files and a smaller
# model. The experiment sets `duplicates=drop`: training pairs that are also in validation, in any
# case and spacing, are left out. One tokenizer reads both languages.

# %% train
cfg = etude.compose(
    "experiment=translate_en_zh",
    "data.path=train.jsonl",
    "data.validation=validation.jsonl",
    "data.sequence_length=32",
    "data.batch.examples=32",
    "data.tokenizer.vocab_size=1500",
    "model.dim=96",
    "model.layers=2",
    "model.dropout=0.2",
    "optimizer.lr=3e-3",
    "trainer.max_epochs=null",
    "trainer.max_steps=2000",
    "trainer.val_check_interval=500",
    "run.samples=0",
)
with capture_output():  # hides the progress
    run = etude.train(cfg)
run.metrics[["step", "train/loss", "val/loss", "val/accuracy"]].dropna()

# %% [markdown]
# `val/accuracy` is the fraction of Chinese tokens that the model predicts correctly from the source
# and the tokens before. Free translation is harder, since errors accumulate.
#
# ## Translate
#
# `run.predict` translates single texts, by default with four beams. These are the first strings of
# the validation file.

# %% translate
sources, references = validation["en"].tolist(), validation["zh"].tolist()
translated = [each["target"] for each in run.predict(sources)]
validation.assign(translation=translated).head(12)

# %% [markdown]
# Some translations are right, some use another word for the same thing, and others name a wrong
# object. BLEU and chrF compare n-grams of all translations with the references, from 0 to 100. A
# translation memory is the baseline: it returns the translation of the training string that shares
# most words with the source.


# %% scores
def bleu(texts):
    return sacrebleu.corpus_bleu(texts, [references], tokenize="zh").score


def chrf(texts):
    return sacrebleu.corpus_chrf(texts, [references]).score


def overlap(a, b):
    return len(a & b) / len(a | b)


stored = [(set(en.lower().split()), zh) for en, zh in training.itertuples(index=False)]
memory = [
    max(stored, key=lambda pair: overlap(words, pair[0]))[1]
    for words in (set(en.lower().split()) for en in sources)
]
scores = {}
for name, texts in (("model", translated), ("translation memory", memory)):
    exact = sum(a == b for a, b in zip(texts, references, strict=True)) / len(texts)
    scores[name] = {"BLEU": bleu(texts), "chrF": chrf(texts), "exact": exact}
pd.DataFrame(scores).T.round(2)

# %% [markdown]
# ## What the decoder reads
#
# `model.capture("decoder.blocks.*.cross.pattern")` records the cross-attention weights of all
# layers while the model reads a source and a target. The decoder reads the target shifted by one:
# at position *t* it has the tokens before *t* and predicts token *t*. So row *t* of the weights
# shows where it looks while it writes token *t*. A word can consist of several tokens, such as
# `cell` and `s`; we add the weights of its tokens.

# %% capture
model = run.model()
tokenizer = model.tokenizer
end, begin = tokenizer.end_of_text, model.module.start_token


def words_of(ids):
    """The words of source tokens, and for each token the number of its word."""
    words, owners = [], []
    for piece in ["end" if i == end else tokenizer.decode([i]) for i in ids]:
        is_part = words and piece != "end" and piece.isalpha() and words[-1][-1:].isalpha()
        if is_part or (words and not words[-1]):  # a space can be a token of its own
            words[-1] += piece
        else:
            words.append(piece.strip())
        owners.append(len(words) - 1)
    return words, torch.tensor(owners)


def cross_attention(source, target):
    """Source words, target tokens, and weights of shape (layers, heads, tokens, words)."""
    read, written = [*tokenizer.encode(source), end], tokenizer.encode(target)
    with torch.no_grad(), model.capture("decoder.blocks.*.cross.pattern", rows=0) as seen:
        model(read, [begin, *written[:-1]])
    words, owners = words_of(read)
    weights = torch.stack(list(seen.values()))
    by_word = weights.new_zeros(*weights.shape[:-1], len(words)).index_add(-1, owners, weights)
    return words, [tokenizer.decode([i]).strip() or "␣" for i in written], by_word


seen = cross_attention("Delete all selected cells", "删除所有选中的单元格")
seen[0], seen[1], seen[2].shape

# %% [markdown]
# ## Which heads align?
#
# The answer needs a source that is independent of the model: a small dictionary. If a validation
# pair contains an entry in both languages, once each, we know where the decoder should look while
# it writes the Chinese word. A head's score is how often its largest weight is there. *Chance* is
# one divided by the number of source words. *Diagonal* always selects the word at the same relative
# position; the second column contains only the words for which it is wrong.

# %% dictionary
dictionary = {
    "file": "文件",
    "files": "文件",
    "cell": "单元格",
    "cells": "单元格",
    "notebook": "笔记本",
    "kernel": "内核",
    "kernels": "内核",
    "tab": "标签页",
    "branch": "分支",
    "output": "输出",
    "show": "显示",
    "open": "打开",
    "delete": "删除",
    "save": "保存",
    "settings": "设置",
    "code": "代码",
    "terminal": "终端",
    "selected": "选中",
    "new": "新",
    "all": "所有",
    "current": "当前",
    "line": "行",
}

# %% align
hits, rules = [], []
for source, target in validation.itertuples(index=False):
    english, chinese, weights = cross_attention(source, target)
    english = [word.lower() for word in english]
    for word, translation in dictionary.items():
        if english.count(word) == chinese.count(translation) == 1:
            where, when = english.index(word), chinese.index(translation)
            hits.append(weights[:, :, when].argmax(dim=-1) == where)
            same_position = round(when / len(chinese) * (len(english) - 1))
            rules.append({"chance": 1 / len(english), "diagonal": float(same_position == where)})
hits = torch.stack(hits).float()  # (words, layers, heads)
names = [f"layer {i}, head {j}" for i in range(hits.shape[1]) for j in range(hits.shape[2])]
words = pd.concat([pd.DataFrame(rules), pd.DataFrame(hits.flatten(1), columns=names)], axis=1)
off_diagonal = words[words["diagonal"] == 0]
alignment = pd.DataFrame(
    {
        f"all {len(words)} words": words.mean(),
        f"{len(off_diagonal)} words off the diagonal": off_diagonal.mean(),
    }
)
alignment.round(2)

# %% [markdown]
# The best head is above both rules, and it finds words that are not on the diagonal. Nothing in the
# training asked for an alignment: the next Chinese token is easier to predict for a model that
# looks at the right English word.
#
# This is that head in the three longest validation strings that the model translates exactly like
# the reference, one row per token that it writes.

# %% alignment
layer, head = divmod(int(hits.mean(dim=0).argmax()), hits.shape[2])


def draw(axes, source, layer, head):
    target = model.generate(source, beams=4, max_new_tokens=24)
    english, chinese, weights = cross_attention(source, target)
    image = axes.imshow(weights[layer, head], cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(english)), english, rotation=45, ha="right")
    axes.set_yticks(range(len(chinese)), chinese)
    return image


figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
exact = [a for a, b, c in zip(sources, references, translated, strict=True) if b == c]
examples = sorted(exact, key=lambda source: len(tokenizer.encode(found[source])))[-3:]
for axes, source in zip(panels, examples, strict=True):
    image = draw(axes, source, layer, head)
bar = figure.colorbar(image, ax=panels, label="attention weight")
title = figure.suptitle(f"Cross-attention of layer {layer}, head {head}")

# %% [markdown]
# All heads on one string. Not every head aligns.

# %% heads
axes_of = {"figsize": (12, 6), "layout": "constrained", "sharex": True, "sharey": True}
figure, panels = plt.subplots(2, 4, **axes_of)
for number, axes in enumerate(panels.flat):
    image = draw(axes, examples[-1], *divmod(number, hits.shape[2]))
    axes.set_title(f"{names[number]}: score {words[names[number]].mean():.2f}")
bar = figure.colorbar(image, ax=panels, label="attention weight")

# %% [markdown]
# The weights show where a head looks, not what the model uses. A direct test: `model.replace` sets
# the output of the cross-attention to zero, in one layer or in both. Without both, the decoder has
# no information about the source and writes the same text for every string.

# %% without
removed = {"nothing": [], "layer 0": [0], "layer 1": [1], "both": [0, 1]}
rows = {}
for name, layers in removed.items():
    with model.replace({f"decoder.blocks.{i}.cross.out": zero for i in layers}):
        texts = model.generate(sources, greedy=True, max_new_tokens=24)
        shown = model.generate(examples, greedy=True, max_new_tokens=24)
    rows[name] = {"BLEU": round(bleu(texts), 1), "different texts": len(set(texts))}
    rows[name] |= dict(zip(examples, shown, strict=True))
pd.DataFrame(rows).T.rename_axis("removed")

# %% [markdown]
# ## Beams
#
# Greedy decoding takes the most probable token at each step. Beam search keeps the most probable
# beginnings, as many as there are beams. It ranks finished texts by log p / n^a, where n is the
# number of tokens with the end token and a the length penalty. With a = 0, it prefers short texts,
# because each further token makes a text less probable. These are the five best hypotheses for one
# source, with their scores for three values of a. (A text can occur twice, as different tokens.)

# %% hypotheses
source = "Create a new tag"
read = torch.tensor([[*tokenizer.encode(source), end]])
with torch.no_grad():
    decoder = model.module.reading(read)  # a decoder of this source
    options = {"beams": 5, "samples": 5, "max_new_tokens": 24, "stop_token": end}
    beams = generate(decoder, torch.tensor([[begin]]), **options)


def log_probability(read, written):
    """The log-probability of target tokens, which include the end token."""
    with torch.no_grad():
        logits = model(read, [begin, *written[:-1]])
    return logits.log_softmax(dim=-1).gather(1, torch.tensor(written)[:, None]).sum().item()


rows = []
for hypothesis in beams[:, 1:].tolist():
    n = hypothesis.index(end) + 1
    log_p = log_probability(read[0].tolist(), hypothesis[:n])
    penalised = {f"log p / n^{a}": log_p / n**a for a in (0, 1, 2)}
    rows.append({"text": tokenizer.decode(hypothesis[: n - 1]), "n": n, **penalised})
hypotheses = pd.DataFrame(rows)
hypotheses.round(3)

# %% [markdown]
# Now all validation strings, with different numbers of beams and length penalties. `log p` is the
# mean log-probability of a translation, `length` the number of tokens divided by that of the
# references.

# %% beams
reference_length = sum(len(tokenizer.encode(text)) for text in references)
rows = []
for beams, a in ((1, 1), (2, 1), (4, 1), (8, 1), (4, 0), (4, 0.5), (4, 1.5), (4, 2)):
    texts = [each["target"] for each in run.predict(sources, beams=beams, length_penalty=float(a))]
    ids = [tokenizer.encode(text) for text in texts]
    log_p = [
        log_probability([*tokenizer.encode(source), end], [*written, end])
        for source, written in zip(sources, ids, strict=True)
    ]
    row = {"beams": beams, "length penalty": a, "BLEU": bleu(texts), "chrF": chrf(texts)}
    row |= {"log p": sum(log_p) / len(ids), "length": sum(map(len, ids)) / reference_length}
    rows.append(row)
table = pd.DataFrame(rows)
table.round(2)

# %% sweep
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", sharey=True)
by_beams = table[table["length penalty"] == 1]
by_penalty = table[table["beams"] == 4].sort_values("length penalty")
look = {"y": ["BLEU", "chrF"], "marker": "o", "grid": True, "ylabel": "score on validation"}
axes = by_beams.plot(x="beams", ax=left, title="length penalty 1", **look)
axes = by_penalty.plot(x="length penalty", ax=right, title="4 beams", **look)

# %% [markdown]
# Beam search adds a point or two of BLEU to greedy decoding, and from four beams on little more.
# The most probable texts are not the best translations: with a = 0, `log p` is highest, but the
# texts are too short. With a = 2, they are too long.
#
# ## What was not shown
#
# One seed, one small model, and 300 short strings of one program, on which we also selected the
# checkpoint: differences of one or two points are no evidence (`runs.significance()` tests
# differences between runs). The dictionary contains frequent words, which are the easiest to align.
# The page Results has the shipped experiment, with six times the parameters and four times the
# data.
