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
# # Your own part in 20 lines
#
# You have an idea for a new attention. How do you train with it, test it, look inside it, and
# find out whether it is better than the built-in one?
#
# The example is an experiment of Olsson et al. (2022,
# [arXiv:2209.11895](https://arxiv.org/abs/2209.11895), argument 2, "smeared keys"). A text that
# repeats itself can be predicted by *induction heads*, which attend from a token to the token
# after its earlier occurrence. For this, the key of a token must contain the token before it. In
# a standard Transformer an earlier layer writes it there, so one layer is not enough. Smeared
# keys mix each key with the key before it:
#
# $$k'_j = \sigma(\alpha)\, k_j + (1 - \sigma(\alpha))\, k_{j-1}$$
#
# with a learned number $\alpha$ for each head. The claim to test: with this part, *one* layer is
# enough.

# %% start
# %matplotlib inline
import math
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from IPython.utils.capture import capture_output

import etude
from etude.errors import RequestError, RunFailed
from etude.interpret import induction_scores
from etude.nn.cache import LayerCache
from etude.nn.position import NoPosition

# A scratch folder. Without this line the files and records are kept, in the current folder.
os.chdir(tempfile.mkdtemp(prefix="etude-"))

# %% [markdown]
# ## The part
#
# A part is a class in a module of yours. This one changes one of the three steps of
# `MultiHeadAttention` (`project`, `attend`, `merge`) and keeps all the rest: the cache of
# generation, packed documents, cross-attention. The constructor receives `dim`, `heads`, `bias`
# and `dropout` from the model. Further arguments, here `initial`, become keys of the config.
#
# `own_sites` lists the intermediate values that can be captured, with a letter for each
# dimension. `scores` and `pattern` have to be listed, because a class that replaces `attend`
# could compute anything there. The call of `site` adds a value of our own.

# %% part
code = '''\
import torch
import torch.nn.functional as F
from torch import nn
from etude.nn.attention import MultiHeadAttention
from etude.nn.sites import site

class SmearedKeys(MultiHeadAttention):
    """Attention that mixes each key with the key before it, with a learned weight per head."""

    def __init__(self, *, dim, heads, bias, dropout, initial: float = 0.0):
        super().__init__(dim=dim, heads=heads, bias=bias, dropout=dropout)
        self.alpha = nn.Parameter(torch.full((heads,), initial))

    @property
    def own_sites(self):
        return super().own_sites | {"scores": "B H T S", "pattern": "B H T S", "smeared": "B H S K"}

    def attend(self, q, k, v, **options):
        own = self.alpha.sigmoid()[:, None, None]
        before = F.pad(k, (0, 0, 1, -1))  # the first key has zeros before it
        k = site(self, "smeared", own * k + (1 - own) * before)
        return super().attend(q, k, v, **options)
'''
Path("my_parts.py").write_text(code)
print(sum(bool(line.strip()) for line in code.splitlines()), "lines of code")

# %% [markdown]
# A config file in a folder of yours gives it a name. `_partial_: true` means that the model adds
# the other arguments. The path of the file is that of the config group, `model/attention`.

# %% config_file
folder = Path("conf/model/attention")
folder.mkdir(parents=True)
config_file = "_target_: my_parts.SmearedKeys\n_partial_: true\n"
(folder / "smeared_keys.yaml").write_text(config_file)
sorted(str(path) for path in Path().rglob("*.*"))

# %% [markdown]
# `config_dir` adds the folder, and `extensions` lists the modules that may be imported. Now the
# part is selected like a built-in one, and its arguments are overrides.

# %% compose
task = [
    "experiment=induction",
    "extensions=[my_parts]",
    "trainer.max_steps=300",
    "trainer.val_check_interval=50",
    "data.batch.examples=32",
    "data.validation=200",
]


def compose(*overrides):
    """Returns the config of a run on repeated random tokens."""
    return etude.compose(*task, *overrides, config_dir="conf")


compose("model/attention=smeared_keys", "model.attention.initial=1").model.attention

# %% [markdown]
# ## What an error looks like
#
# Étude compares a class with the *contract* of its key before it builds anything, and reports all
# problems at once. The page in a message lists the arguments, methods and attributes.

# %% wrong_signature
Path("wrong_parts.py").write_text(
    """\
from torch import nn
from etude.nn.attention import MultiHeadAttention

class Alone(nn.Module):
    def __init__(self, dim, heads, bias):
        super().__init__()

    def forward(self, x, mask):
        return x

class Misses(MultiHeadAttention):
    def attend(self, q, k, v):
        return super().attend(q, k, v, causal=True)
"""
)


def with_wrong(name):
    """Returns the config of a run with a class of `wrong_parts`."""
    (folder / "wrong.yaml").write_text(f"_target_: wrong_parts.{name}\n_partial_: true\n")
    return compose("name=wrong", "extensions=[wrong_parts]", "model/attention=wrong")


try:
    etude.train(with_wrong("Alone"))
except RequestError as error:
    print(error)

# %% [markdown]
# Keys of the config are checked against the constructor, too.

# %% wrong_key
try:
    etude.train(compose("model/attention=smeared_keys", "model.attention.initail=1"))
except RequestError as error:
    print(error)

# %% [markdown]
# The contract has only the methods that Étude itself calls. `attend` is called by
# `MultiHeadAttention`, so a wrong signature is noticed in the first step of training. The message
# names the class with its file and line, and the record keeps the traceback.

# %% wrong_step
with capture_output():
    try:
        etude.train(with_wrong("Misses"))
    except RunFailed as error:
        failure = error
print(failure)

# %% [markdown]
# Python imports a module once. If you edit `my_parts.py` while the notebook runs, call
# `importlib.reload(my_parts)` before the next run, or restart the kernel.
#
# ## A test
#
# The formula in plain Python, with a loop for each index, is slow and hard to get wrong. The part
# must agree with it for random weights.

# %% formula
from my_parts import SmearedKeys

torch.manual_seed(0)
T, D, H = 6, 16, 2
K = D // H
part = SmearedKeys(dim=D, heads=H, bias=False, dropout=0.0)
part.alpha.data.normal_()
given = {"position": NoPosition(dim=D, heads=H, max_length=T), "causal": True}
x = torch.randn(1, T, D)

with torch.no_grad():
    actual = part(x, **given)
    q, k, v = (x[0] @ part.qkv.weight.T).view(T, 3, H, K).unbind(1)  # each (T, H, K)
    joined = torch.zeros(T, H, K)
    for h in range(H):
        own = 1 / (1 + math.exp(-part.alpha[h]))
        for i in range(T):
            weights = []
            for j in range(i + 1):
                before = k[j - 1, h] if j > 0 else torch.zeros(K)
                key = own * k[j, h] + (1 - own) * before
                weights.append(math.exp(q[i, h] @ key / math.sqrt(K)))
            for j, weight in enumerate(weights):
                joined[i, h] += weight / sum(weights) * v[j, h]
    expected = joined.view(T, D) @ part.out.weight.T
torch.allclose(actual[0], expected, atol=1e-6)

# %% [markdown]
# Two properties that every attention of a decoder must have: a later token doesn't change an
# earlier output, and reading token by token with a cache, as generation does, gives the same
# outputs.

# %% properties
with torch.no_grad():
    other = x.clone()
    other[:, -1] = 0
    is_causal = torch.allclose(part(other, **given)[:, :-1], actual[:, :-1], atol=1e-6)
    cache = LayerCache(1, T)
    steps = [part(x[:, i : i + 1], cache=cache, **given) for i in range(T)]
    is_cacheable = torch.allclose(torch.cat(steps, dim=1), actual, atol=1e-6)
is_causal, is_cacheable

# %% [markdown]
# ## Is it better?
#
# We compare three models on sequences of 48 random tokens that repeat after 8 to 24 tokens: one
# layer with the built-in attention, one layer with ours, and two layers with the built-in one.
# Each is trained with three seeds. All nine runs list `my_parts` in `extensions`, because this
# list is part of a run's config: otherwise the models would differ in one more key.

# %% sweep
variants = {
    "built-in, 1 layer": ["model/attention=multi_head", "model.layers=1"],
    "smeared keys, 1 layer": ["model/attention=smeared_keys", "model.layers=1"],
    "built-in, 2 layers": ["model/attention=multi_head", "model.layers=2"],
}
configs = [compose(*v, f"seed={seed}") for v in variants.values() for seed in range(3)]
with capture_output():  # hides the progress of nine runs
    runs = etude.Runs([etude.train(config) for config in configs])
columns = ["model.attention", "model.layers", "seed", "parameters", "val/loss", "val/accuracy"]
runs.frame()[columns]

# %% [markdown]
# `group` joins runs that differ only in the seed. `low` and `high` are the ends of a bootstrap
# interval of the mean. With three values it is as wide as the values themselves, and contains the
# true mean in about 75 % of cases, not in 95 %.

# %% groups
groups = runs.group("val/loss")
groups.frame()

# %% [markdown]
# The lines are means over the seeds, the bands one standard deviation. Guessing one of 64 tokens
# has the loss $\ln 64 = 4.16$.

# %% curves
groups.plot("val/loss")

# %% [markdown]
# A permutation test against the baseline, which we chose before training. No result of three
# seeds against three can have a p-value below 0.1 (`smallest_p`), however large the difference
# is; four seeds can reach 0.03.

# %% comparison
groups.comparison("first")

# %% [markdown]
# ## Is the explanation right?
#
# If the explanation is right, the heads of the one layer are induction heads. `induction_scores`
# measures the weight from a token to the one after its earlier occurrence. It reads the site
# `pattern`, which our part lists, so it works for our part as for the built-in one.

# %% induction
labels = [name for name in variants for _ in range(3)]
scores = pd.DataFrame(
    {
        "model": labels,
        "seed": [run.config.seed for run in runs],
        "highest score of a head": [induction_scores(run.model(), length=20).max() for run in runs],
    }
)
scores.pivot(index="model", columns="seed", values="highest score of a head").loc[list(variants)]

# %% patterns
sequence = torch.randint(64, (1, 16), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
figure, panels = plt.subplots(1, 3, figsize=(13, 4.4), layout="constrained")
for axes, name in zip(panels, variants, strict=True):
    model = runs[labels.index(name)].model()
    with torch.no_grad(), model.capture("blocks.-1.attention.pattern", rows=0) as seen:
        model(sequence)
    (site_name,) = seen
    image = axes.imshow(seen[site_name].mean(0), cmap="Blues", vmin=0, vmax=0.6)
    axes.set(title=name, xlabel="key")
panels[0].set(ylabel="query")
figure.colorbar(image, ax=panels, shrink=0.8, label="weight")
figure.suptitle("16 random tokens, twice: attention weights of the last layer, mean over heads")
plt.show()

# %% [markdown]
# With smeared keys, the second half has a stripe 15 positions to the left of each query: the
# token after the earlier occurrence. One built-in layer has none. The learned weights
# $\sigma(\alpha)$ show how much of its own key each token keeps; they started at 0.5.

# %% alpha
own = [run for run, name in zip(runs, labels, strict=True) if name.startswith("smeared")]
pd.DataFrame(
    [run.model().module.blocks[0].attention.alpha.sigmoid().tolist() for run in own],
    index=pd.Index([run.config.seed for run in own], name="seed"),
    columns=pd.Index(range(4), name="head"),
).round(3)

# %% [markdown]
# Our own value `smeared` is one of the model's sites, and can be captured or replaced. As a check
# of the explanation, we replace the smeared keys by the model's own keys, without training.

# %% replace
model = own[0].model()
with torch.no_grad(), model.capture("blocks.0.attention.k") as seen:
    model(sequence)


def loss_of_second_half():
    """Returns the mean loss of the tokens that are repeated, in nats."""
    with torch.no_grad():
        log_probabilities = model(sequence)[0, 15:-1].log_softmax(-1)
    return -float(log_probabilities.gather(-1, sequence[0, 16:, None]).mean())


with_smeared = loss_of_second_half()
with model.replace({"blocks.0.attention.smeared": seen["blocks.0.attention.k"]}):
    without = loss_of_second_half()
pd.Series({"smeared keys": with_smeared, "keys of one token": without}, name="loss").to_frame()

# %% [markdown]
# ## Later
#
# A saved run names your class, but loading the run does not import your module until you trust
# it.

# %% trust
try:
    etude.load_run(own[0].path)
except RequestError as error:
    print(error)
etude.load_run(own[0].path, trust="my_parts").model().module.blocks[0].attention

# %% [markdown]
# With smeared keys one layer predicts repeated tokens about as well as two built-in layers, and
# the difference to one built-in layer is far larger than the differences between seeds.
#
# What this does not show: three seeds do not separate our part from two built-in layers. The
# models have 64 dimensions and the task is synthetic; in text, attention has more to do than to
# find repetitions. Hyperparameters were not tuned for any of the three. The part is also not
# complete: in a batch of prompts of different lengths, the shorter ones begin with padding, and
# the first key of the prompt is then mixed with a key of padding instead of zeros.
#
# The other parts of a model, data, tasks and optimizers work in the same way; each has a page of
# its contract in the documentation.
