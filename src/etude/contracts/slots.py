"""The contract (requirements on the class) of each config key that names a class."""

from __future__ import annotations

from collections.abc import Mapping

from etude.contracts import parts, runs
from etude.contracts.contract import Contract

_MODULE = "torch.nn.modules.module.Module"

_OF_LAYERS = {
    "attention": Contract("attention", parts.Attention, _MODULE),
    "position": Contract("position", parts.Position, _MODULE),
    "feedforward": Contract("feedforward", parts.FeedForward, _MODULE),
    "mask": Contract("mask", parts.Mask),
    "block": Contract("block", parts.Block, _MODULE),
}

CONTRACTS: Mapping[str, Contract] = {
    "model": Contract("model", runs.Model, _MODULE, frozenset({"vocab_size"})),
    **{f"model.{name}": contract for name, contract in _OF_LAYERS.items()},
    **{f"model.kinds.*.{name}": contract for name, contract in _OF_LAYERS.items()},
    "model.norm": Contract("norm", parts.Norm, _MODULE),
    "model.head": Contract("head", runs.Head, _MODULE, frozenset({"labels"})),
    "model.initialise": Contract("initialise", runs.Initialise),
    "data": Contract("data", runs.Data, "etude.data.module.DataModule"),
    "data.tokenizer": Contract("tokenizer", runs.Tokenizer, "etude.data.tokenizer.Recipe"),
    "task": Contract("task", runs.Task, "etude.tasks.base.Task"),
    "optimizer": Contract("optimizer", runs.Optimizer),
    "schedule": Contract("schedule", runs.Schedule),
    "callbacks.*": Contract(
        "callback", runs.Callback, "pytorch_lightning.callbacks.callback.Callback"
    ),
    "logger.*": Contract("logger", runs.Logger, "etude.loggers.base.Logger"),
    "hydra.launcher": Contract("launcher", runs.Launcher, "hydra.plugins.launcher.Launcher"),
}
"""The contract of each config key that has one; `*` is any name (see `etude.config.table`).

A class under any other config key has no requirements.
"""
