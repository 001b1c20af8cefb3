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
# A small Transformer learns to write English from the State of the Union messages. We compose its
# config, train it, look at its metrics, generate text, stop a run half-way and continue it, and
# compare three position encodings. On a laptop's CPU, all of this takes less than a minute.

# %% start
import os
import tempfile

import pandas as pd

import etude

# A scratch folder. Without this line the records are kept, in ./experiments.
os.chdir(tempfile.mkdtemp(prefix="etude-"))

# %% [markdown]
# ## Compose
#
# A config is composed from the files in `conf/` and from overrides. Here they are a list; on the
# command line, the same overrides follow `etude train`. Values that differ from the experiment are
# marked.

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
cfg

# %% [markdown]
# Every key is an argument of the class that `_target_` names, so an error is reported before
# training.

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
# The same config a second time returns the saved run, without training.

# %% again
etude.train(cfg).path == run.path

# %% [markdown]
# ## Metrics
#
# A run's metrics are a data frame, and `plot` draws them.

# %% metrics
run.metrics[["step", "tokens", "train/loss", "val/loss", "val/bits_per_byte"]].dropna()

# %% curve
run.plot("train/loss", "val/loss")

# %% summary
{key: run.summary[key] for key in ("parameters", "tokens", "seconds", "best")}

# %% [markdown]
# ## Generate text
#
# `run.model()` is the trained module with its tokenizer. After 200 steps, it has learned how long
# words are, and a few short ones.

# %% generate
model = run.model("best")
for text in model.generate("My fellow", samples=3, max_new_tokens=70, temperature=0.7, seed=0):
    print(repr(text))

# %% [markdown]
# Called with token ids, the model returns the logits at every position. The table shows the five
# most probable next characters:

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
# ## Stop and continue
#
# `run.stop_at_step` pauses a run; the stop button of the notebook does so at any step. The keys
# under `run` are not part of the signature: without them, the config names the same run, which
# continues from its checkpoint.

# %% pause
paused = etude.train(etude.compose(*small, "seed=1", "run.stop_at_step=90"))
paused.status

# %% continue
continued = etude.train(etude.compose(*small, "seed=1"))
continued.status, [start["step"] for start in continued.summary["starts"]]

# %% [markdown]
# The pause changes nothing: the weights are equal, bit for bit, to those of a run in one piece.

# %% exact
straight = etude.train(etude.compose(*small, "seed=1", "run.root=in_one_piece"))
weights = straight.model("last").module.state_dict()
all(w.equal(weights[name]) for name, w in continued.model("last").module.state_dict().items())

# %% [markdown]
# ## Compare
#
# How should the model know the position of a character? Each answer is a file of the config group
# `model/position` (`etude.choices` lists them). The first of these runs is finished already, and is
# reused.

# %% compare
found = etude.sweep(*small, {"model/position": ["rotary", "learned", "none"]})
found

# %% table
table = found.frame()
table[["model.position", "parameters", "val/loss"]].sort_values("val/loss")

# %% curves
found.compare("train/loss", "val/loss").figure()

# %% [markdown]
# One seed of each is no result: another seed can change the order. Notebook 3 compares with several
# seeds and intervals.
#
# From here, in a terminal: `etude train experiment=nano` for a model that writes whole words, and
# `etude train experiment=debug model/position=learned,rotary,alibi seed=0,1,2 -m` for a study.
