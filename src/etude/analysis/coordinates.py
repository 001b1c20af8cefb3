"""Coordinate check: measurement of how the activations of a model scale with its width.

In this check (Yang et al. 2022, arXiv:2203.03466, appendix D.1), models of several widths train for
a few steps. In muP, the outputs of blocks, the logits and their changes neither grow nor vanish
with the width; in the standard parametrisation, some do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from etude.config.checks import CheckedConfig, check
from etude.errors import Problem, RequestError
from etude.generation.model_modes import evaluation_mode
from etude.nn.attention import MultiHeadAttention
from etude.tasks.base import Setup, Task
from etude.tasks.seeding import seed_for, seed_generators
from etude.training.build import build_parts
from etude.training.model import build_model
from etude.training.process import exclusive_fresh_settings
from etude.training.run_folder import cache_folder

if TYPE_CHECKING:
    import pandas as pd

MUP, STANDARD = "muP", "standard"
LOGITS, SCORES = "logits", "scores"
"""Names of quantities: the model's output, and the suffix of a layer's attention scores before the
softmax. The output of a block has the block's name.
"""


def coordinate_check(
    config: DictConfig,
    widths: Sequence[int],
    *,
    steps: int = 4,
    seeds: Sequence[int] = (0,),
    beside_standard: bool = False,
    figure: str | Path | None = None,
) -> pd.DataFrame:
    """Trains a model of each width for a few steps, and measures activations on the first batch.

    All measurements of a model use the first micro-batch of its first step.

    Training is in memory and on the CPU. Every step uses the optimizer's base learning rate,
    without a warm-up.

    Args:
        config: result of `etude.compose`; its `model.mup_base_dim` determines the parametrisation.
        widths: values of `model.dim`.
        steps: number of optimizer steps.
        seeds: seeds; each width is trained once with each seed.
        beside_standard: whether to train each width in muP and also in the standard
            parametrisation. The config must then set `model.mup_base_dim`.
        figure: path of the figure from `coordinate_figure`; None for no figure.

    Returns:
        A data frame with a row for each `parametrisation`, `width`, `seed`, `step` (0 is before
        training) and `quantity` (an activation, such as `logits`). The columns `value` and
        `change` contain the quantity's mean absolute value, and its mean absolute change since
        step 0 (0 at step 0).

    Raises:
        RequestError: fewer than two widths, no step, no seed, `beside_standard` without
            `model.mup_base_dim`, or a config that cannot run at a width.
    """
    import pandas as pd

    problems = []
    if len(set(widths)) < 2:
        problems.append(Problem("widths", "at least two different widths", list(widths)))
    if steps < 1:
        problems.append(Problem("steps", "a positive number", steps))
    if not seeds:
        problems.append(Problem("seeds", "at least one seed", list(seeds)))
    base = OmegaConf.select(config, "model.mup_base_dim")
    if beside_standard and base is None:
        hint = "without a base width, the model uses only the standard parametrisation"
        problems.append(Problem("model.mup_base_dim", "a base width", None, hint))
    if problems:
        raise RequestError(problems)
    rows: list[dict[str, Any]] = []
    for base_dim in dict.fromkeys([base, None] if beside_standard else [base]):
        for width in sorted(set(widths)):
            for seed in seeds:
                head = {
                    "parametrisation": STANDARD if base_dim is None else MUP,
                    "width": width,
                    "seed": seed,
                }
                rows_of_run = _train(_check_at(config, width, seed, base_dim), steps)
                rows += [head | row for row in rows_of_run]
    frame = pd.DataFrame(rows)
    if figure is not None:
        from etude.analysis.coordinate_figure import coordinate_figure

        coordinate_figure(frame, Path(figure))
    return frame


def slopes(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the exponents with which the activations in a coordinate check grow with the width.

    Args:
        frame: result of `coordinate_check`.

    Returns:
        A data frame with a row for each `parametrisation`, `quantity` (an activation, such as
        `logits`) and `step`. The columns `value` and `change` contain the exponents: the slopes
        of log(`value`) and log(`change`) against log(`width`), by least squares, from means
        over the seeds. `change` is NaN at step 0.
    """
    import pandas as pd

    rows = []
    for key, group in frame.groupby(["parametrisation", "quantity", "step"], sort=False):
        means = group.groupby("width")[["value", "change"]].mean()
        rows.append(
            dict(zip(("parametrisation", "quantity", "step"), key, strict=True))
            | {column: _slope(means.index, means[column]) for column in means}
        )
    return pd.DataFrame(rows)


def _slope(widths: Any, values: Any) -> float:
    x, y = np.asarray(widths, dtype=float), np.asarray(values, dtype=float)
    if not (y > 0).all():
        return float("nan")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _check_at(config: DictConfig, width: int, seed: int, base: int | None) -> CheckedConfig:
    changed = config.copy()
    for key, value in (("model.dim", width), ("seed", seed), ("model.mup_base_dim", base)):
        OmegaConf.update(changed, key, value, force_add=True)
    return check(changed)


def _train(checked: CheckedConfig, steps: int) -> Iterator[dict[str, Any]]:
    """Trains a model, and yields measurements before the first step and after each step.

    Each measurement is a dict with the keys `step`, `quantity`, `value` and `change`, which
    `coordinate_check` explains.
    """
    with exclusive_fresh_settings("etude.coordinate_check"):
        parts = build_parts(checked)
        data = parts.data
        data.check()
        data.prepare(cache_folder(checked))
        data.attach(seed=checked.seed, micro_batch=parts.trainer.micro_batch, total_steps=steps)
        task: Any = parts.task(
            setup=Setup(
                model=build_model(checked, data.tokenizer_.vocab_size, len(data.labels)),
                optimizer=parts.optimizer,
                schedule=parts.schedule,
                total_steps=steps,
                seed=checked.seed,
                gradient_clip_val=parts.trainer.gradient_clip_val,
            )
        )
        optimizer = task.configure_optimizers()
        first: dict[str, Tensor] = {}
        first_batch: Any = None
        for step, batch in enumerate(data.train_dataloader()):
            if first_batch is None:
                first_batch = batch[0]
                first = measure(task, first_batch)
                yield from _rows(0, first, first)
            optimizer.zero_grad()
            for index, micro in enumerate(batch):
                seed_generators(seed_for(checked.seed, step, index), torch.device("cpu"))
                (task.loss(micro) / micro["step_targets"]).backward()
            task.on_before_optimizer_step(optimizer)
            optimizer.step()
            yield from _rows(step + 1, measure(task, first_batch), first)


def _rows(
    step: int, activations: dict[str, Tensor], first: dict[str, Tensor]
) -> Iterator[dict[str, Any]]:
    for name, x in activations.items():
        yield {
            "step": step,
            "quantity": name,
            "value": x.abs().mean().item(),
            "change": (x - first[name]).abs().mean().item(),
        }


@torch.no_grad()
def measure(task: Task, micro: Any) -> dict[str, Tensor]:
    """Computes the activations of a task's model on a micro-batch, without dropout.

    The activations are the outputs of the blocks, the attention scores before the softmax, and the
    logits. Returns a dict from the name of each activation, such as `blocks.0` or `logits`, to its
    values.

    Args:
        task: the task.
        micro: the micro-batch, as the task receives it in training.
    """
    activations: dict[str, Tensor] = {}
    with evaluation_mode(task.model), _captured(task.model, activations):
        task.loss(micro)
    return activations


@contextmanager
def _captured(model: nn.Module, activations: dict[str, Tensor]) -> Iterator[None]:
    """Context manager in which calls of `model` store their activations in the dict `activations`.

    The keys are the names of the activations, such as `blocks.0` and `logits`; see `measure`. A
    later call replaces the activations of an earlier call.
    """

    def capturing(name: str) -> Any:
        def capture(module: nn.Module, inputs: Any, output: Tensor) -> None:
            activations[name] = output.detach()

        return capture

    def scoring(name: str, attention: MultiHeadAttention) -> Any:
        attend = attention.attend

        def attend_and_capture(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
            keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            activations[name] = q @ keys.transpose(-2, -1) * attention.scale
            return attend(q, k, v, **options)

        return attend_and_capture

    hooks = []
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for name, part in model.named_modules():
            if name.rpartition(".")[0].endswith("blocks"):
                hooks.append(part.register_forward_hook(capturing(name)))
            if isinstance(part, MultiHeadAttention):
                replaced.append((part, vars(part).get("attend")))
                vars(part)["attend"] = scoring(f"{name} {SCORES}", part)
        hooks.append(model.register_forward_hook(capturing(LOGITS)))
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for part, original in replaced:
            del part.attend
            if original is not None:
                part.attend = original
