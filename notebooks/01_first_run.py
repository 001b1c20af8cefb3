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
# # A first run
#
# A small Transformer learns to write English from the State of the Union messages. We compose
# its config, train it, look at it, let it write, stop it half-way and go on, and compare three ways
# to tell it where a character stands. On a laptop's CPU all of this takes less than a minute.

# %% start
import os
import tempfile

import pandas as pd
from IPython.display import Image
from omegaconf import OmegaConf

import etude

# A scratch folder. Without this line the records are kept, in ./experiments.
os.chdir(tempfile.mkdtemp(prefix="etude-"))

# %% [markdown]
# ## Compose
#
# A config is composed from the files in `conf/` and from overrides. Here they are a list; on the
# command line, the same overrides follow `etude train`.

# %% compose
small = [
    "experiment=debug",
    "data/tokenizer=char",
    "data.held_out_from=2025",
    "data.batch.examples=16",
    "model.dim=64",
    "model/position=rotary",
    "optimizer.lr=1e-2",
    "schedule.warmup_steps=40",
    "trainer.max_steps=200",
    "trainer.val_check_interval=50",
]
cfg = etude.compose(*small)
print(OmegaConf.to_yaml(cfg.model))

# %% [markdown]
# Every key is an argument of the class that `_target_` names, so a slip is found before anything
# starts.

# %% mistake
from etude.errors import RequestError

try:
    etude.train(etude.compose(*small, "model.layrs=3", "optimizer.lr=fast"))
except RequestError as error:
    print(error)

# %% [markdown]
# ## Train
#
# The folder of the run is named by a signature of its config.

# %% train
run = etude.train(cfg)
run

# %% [markdown]
# The same config once more does no work: the run is there.

# %% again
etude.train(cfg).path == run.path

# %% [markdown]
# ## Look
#
# A run's metrics are a data frame, and its figures are files in its folder.

# %% metrics
run.metrics[["step", "tokens", "train/loss", "val/loss", "val/bits_per_byte"]].dropna()

# %% curve
Image(filename=str(run.path / "figures" / "loss.png"), width=640)

# %% summary
{key: run.summary[key] for key in ("parameters", "tokens", "seconds", "best")}

# %% [markdown]
# ## Let it write
#
# `run.model()` is the trained module with its tokenizer. After 200 steps it has learned how
# long words are, and a few short ones.

# %% generate
model = run.model("best")
for text in model.generate("My fellow", samples=3, max_new_tokens=70, temperature=0.7, seed=0):
    print(repr(text))

# %% [markdown]
# Called with token ids, it returns the logits at every position. These are its five likeliest next
# characters:

# %% next
logits = model(model.tokenizer.encode("the peopl"))  # (T, V)
likeliest = logits[-1].softmax(dim=-1).topk(5)
pd.DataFrame(
    {
        "character": [repr(model.tokenizer.decode([i])) for i in likeliest.indices.tolist()],
        "probability": likeliest.values.tolist(),
    }
)

# %% [markdown]
# ## Stop and go on
#
# `run.stop_at_step` pauses a run; so, at any moment, does Ctrl-C. What stands under `run` is no
# part of the signature: without it the config names the same run, which goes on from its
# checkpoint.

# %% pause
paused = etude.train(etude.compose(*small, "seed=1", "run.stop_at_step=90"))
paused.status

# %% continue
continued = etude.train(etude.compose(*small, "seed=1"))
continued.status, [start["step"] for start in continued.summary["starts"]]

# %% [markdown]
# It arrives where it would have arrived without the pause: the weights are equal, bit for bit, to
# those of a run in one piece.

# %% exact
straight = etude.train(etude.compose(*small, "seed=1", "run.root=in_one_piece"))
weights = straight.model("last").module.state_dict()
all(w.equal(weights[name]) for name, w in continued.model("last").module.state_dict().items())

# %% [markdown]
# ## Compare
#
# How should the model know where a character stands? Each answer is one file of the config group
# `model/position`; the first of these runs is there already.

# %% compare
for position in ("rotary", "learned", "none"):
    etude.train(etude.compose(*small, f"model/position={position}"))

# %% table
found = etude.runs("experiments/debug")
table = found.frame()
table[["model.position", "seed", "parameters", "val/loss"]].sort_values("val/loss")

# %% curves
curves = {
    f"{position}, seed {seed}": run.metrics.set_index("step")["val/loss"].dropna()
    for run, position, seed in zip(found, table["model.position"], table["seed"], strict=True)
}
axes = pd.DataFrame(curves).plot(marker="o", grid=True, ylabel="val/loss (nats per character)")

# %% [markdown]
# One seed an arm is a look, not a result: two seeds of one arm are in the picture, so you can see
# how far apart chance alone puts them.
#
# From here, in a terminal: `etude train experiment=nano` for a model that writes whole words, and
# `etude train experiment=debug model/position=learned,rotary,alibi seed=0,1,2 -m` for a study.
