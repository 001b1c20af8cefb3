"""Initialises a run from the weights of another run, or from pretrained weights (`init_from`)."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from etude.config.schema import InitFrom
from etude.config.targets import resolve_class
from etude.errors import Problem, RequestError
from etude.models.families import has_head, head_class_name
from etude.records import opening
from etude.records.config_file import read_config, to_portable
from etude.records.files import sha256_file
from etude.records.integrity import CONFIG, TOKENIZER
from etude.records.manifest import WEIGHTS, read_manifest
from etude.records.record import Record
from etude.records.registry import enclosing_record, find_record, is_record
from etude.training.checkpoints import load_mean
from etude.training.position_growth import extend_positions, resolve_max_length

log = logging.getLogger("etude")

MAX_SHOWN = 4
"""Number of incompatible tensors that an error lists."""


@dataclass
class WeightSource:
    """Location of the weights from which a run is initialised.

    Attributes:
        record: Saved run that contains the weights; None for pretrained weights.
        checkpoints: Checkpoint folders of that run, whose mean is used; empty for pretrained
            weights.
        path: Local path of pretrained weights, which may be a download from the Hub; None for a
            saved run.
        repository: Hugging Face Hub repository of pretrained weights; None if they are not from the
            Hub.
        commit: Commit of the repository; None if the weights are not from the Hub.
    """

    record: Record | None = None
    checkpoints: tuple[Path, ...] = ()
    path: Path | None = None
    repository: str | None = None
    commit: str | None = None


class InitFromSource:
    """Applies the config group `init_from` to a run's config and to its model's weights.

    `init_from.source` names the saved run, or the folder or Hugging Face Hub repository of a
    pretrained model, from whose weights the new run starts.
    """

    @classmethod
    def resolve_config(cls, config: DictConfig) -> DictConfig:
        """Returns a copy of the config with the model and the tokenizer of `init_from.source`, the
        name of a saved run or of a pretrained model.

        In the copy, `init_from.found` identifies the weights of this run or model by a commit or
        by hashes.

        Args:
            config: Composed config, which sets `init_from.source`; not modified.

        Raises:
            RequestError: The run or model in `init_from.source` is missing, or an override would
                replace its model or tokenizer.
        """
        options = config.init_from
        source = _locate(options, Path(config.run.root))
        _check_overrides(config)
        result = config.copy()
        if source.record is not None:
            node, tokenizer = _run_config(source)
        else:
            try:
                node, tokenizer = _pretrained_config(options)
            except RequestError as error:
                generic = (".", "source")  # show the source as the user typed it
                raise RequestError(
                    Problem("init_from", p.expected, str(options.source), p.hint)
                    if p.where in generic
                    else p
                    for p in error.problems
                ) from error
        head = OmegaConf.select(config, "model.head")
        if "head" in node or "encoder.Encoder" in str(node.get("_target_")):
            node["head"] = _default_head(config) if head is None else _to_container(head)
        with open_dict(result):
            result.model = node
            for key in _overridden_keys(config):
                OmegaConf.update(result, key, OmegaConf.select(config, key), force_add=True)
            if "max_length" in node:
                stated = OmegaConf.select(config, "model.max_length")
                typed = "model.max_length" in _overridden_keys(config)
                result.model.max_length = resolve_max_length(
                    node, config, stated if typed else None
                )
            if "tokenizer" in result.data:
                result.data.tokenizer = tokenizer
            result.init_from.found = _identity(source)
        return result

    @classmethod
    def fill(cls, module: nn.Module, options: InitFrom | DictConfig, root: Path) -> None:
        """Loads weights into `module`: those of the run or the pretrained model that
        `options.source` names.

        The head keeps its initial weights if `options.head` is `new`, or if the weights belong to a
        model without a head or with a head of another class. Unless `options.head` is `new`, the
        pooler of a pretrained model becomes the first layer of a `ClassificationHead`.

        Args:
            module: Model of the run.
            options: The config's `init_from`.
            root: Folder that contains the saved runs.

        Raises:
            RequestError: The run or the pretrained model is missing or has changed, or its weights
                don't fit `module`.
        """
        source = _locate(options, root)
        current = _identity(source)
        if dict(options.found) != current:
            hint = "the content of init_from.source has changed since this run began; to train a "
            hint += "new run from its present content, set run.on_existing=again"
            expected = f"the weights that the run's config identifies: {dict(options.found)}"
            raise RequestError(Problem("init_from", expected, current, hint))
        weights = _load_weights(source, options, module)
        _load(module, weights, new_head=options.head == "new", grow=bool(options.grow_positions))


def _locate(options: Any, root: Path) -> WeightSource:
    typed = str(options.source)
    if not typed.strip():
        expected = "a run, a folder of weights, or a Hugging Face Hub id"
        raise RequestError(Problem("init_from", expected, typed))
    path = Path(typed).expanduser()
    if path.exists() and not is_record(path):
        if options.revision is not None:
            expected = "null, because init_from.source is a local path"
            raise RequestError(Problem("init_from.revision", expected, options.revision))
        has_weights = path.is_file() or (path / "config.json").exists()
        if not has_weights and (folder := enclosing_record(path)) is not None:
            expected = "a run, a folder of weights, or a Hugging Face Hub id"
            hint = f"the path is inside the run {folder}; its checkpoint is chosen by "
            hint += "init_from.checkpoint=STEP"
            raise RequestError(Problem("init_from", expected, typed, hint))
        return WeightSource(path=path)
    try:
        record = find_record(typed, root)
    except RequestError as unknown:
        from etude.interop.weights_location import is_hub_id, locate_weights

        if path.exists() or not is_hub_id(typed):
            raise RequestError(
                _under_init_from(problem) for problem in unknown.problems
            ) from unknown
        try:
            location = locate_weights(typed, options.revision)
        except RequestError as error:
            expected = "a run, a folder of pretrained weights, or an accessible Hugging Face Hub id"
            hints = [problem.hint or problem.expected for problem in error.problems]
            hint = f"{root} contains no run named {typed}{_nearest_run(unknown)}; "
            hint += f"Hugging Face Hub: {'; '.join(hints)}"
            raise RequestError(Problem("init_from", expected, typed, hint)) from error
        return WeightSource(
            path=location.path, repository=location.repository, commit=location.commit
        )
    try:
        folders = record.chosen(options.checkpoint).folders
    except RequestError as error:
        where = "init_from.checkpoint"
        raise RequestError(replace(problem, where=where) for problem in error.problems) from error
    record.check(CONFIG, TOKENIZER)
    record.check_weights(folders)
    return WeightSource(record=record, checkpoints=tuple(folders))


def _nearest_run(unknown: RequestError) -> str:
    """Returns a question that names a run of a similar name, in brackets; empty if there is none.

    Args:
        unknown: the error of `find_record`.
    """
    hint = unknown.problems[0].hint or ""
    return f" ({hint})" if hint.startswith("did you mean") else ""


_HEADS = {
    "classes": "etude.models.heads.ClassificationHead",
    "tags": "etude.models.heads.TaggingHead",
    "vocabulary": "etude.models.heads.MaskedLanguageHead",
}


def _default_head(config: DictConfig) -> dict[str, Any] | None:
    """Returns the config of the task's default head; None if the task needs no head."""
    task: Any = resolve_class(str(config.task.get("_target_")), "task", config.extensions)
    target = _HEADS.get(getattr(task, "head", None) or "")
    return None if target is None else {"_target_": target, "_partial_": True}


def _to_container(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _under_init_from(problem: Problem) -> Problem:
    return Problem("init_from", problem.expected, problem.value, problem.hint)


def _identity(source: WeightSource) -> dict[str, Any]:
    """Returns a dict that identifies the weights at `source`: by hashes, or by the repository and
    the commit. The dict becomes part of the new run's signature (a hash of its config). It does not
    depend on the name or the path of the weights.
    """
    if source.record is not None:
        manifests = [read_manifest(folder) for folder in source.checkpoints]
        steps = [manifest["step"] for manifest in manifests]
        hashes = [manifest["sha256"][WEIGHTS] for manifest in manifests]
        run = {"run": str(source.record.info.get("signature"))}
        if len(manifests) == 1:
            return {**run, "step": steps[0], "sha256": hashes[0]}
        return {**run, "average": steps, "sha256": hashes}
    if source.commit is not None:
        return {"repository": source.repository, "commit": source.commit}
    assert source.path is not None
    files = [source.path]
    if source.path.is_dir():
        kinds = ("*.safetensors", "*.bin", "config.json")
        files = sorted({file for kind in kinds for file in source.path.glob(kind)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return {"sha256": digest.hexdigest()}


def _run_config(source: WeightSource) -> tuple[dict[str, Any], dict[str, Any]]:
    assert source.record is not None
    config = to_portable(read_config(source.record.path / "config.yaml"))
    values: Any = OmegaConf.to_container(config, resolve=True)
    node = dict(values["model"])
    reads_tokens = "vocab_size" in _constructor_parameters(node, config)
    if reads_tokens and node.get("vocab_size") is None:
        node["vocab_size"] = source.record.info["tokenizer"]["size"]
    path = str(source.record.path / "tokenizer.json")
    with opening.open_file(path, opening.TOKENIZER):  # refuses links, which later readers follow
        pass
    return node, {"_target_": "etude.data.pretrained.Pretrained", "path": path}


def _constructor_parameters(node: Mapping[str, Any], config: DictConfig) -> Mapping[str, Any]:
    """Returns a dict from names to the parameters (`inspect.Parameter`) of a model's constructor.

    Args:
        node: Config of the model, whose `_target_` is the model's class.
        config: Config of the run, which lists the extensions.
    """
    return inspect.signature(resolve_class(node["_target_"], "model", config.extensions)).parameters


def _pretrained_config(options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from etude.interop.model_node import model_node
    from etude.interop.released_model import load_released

    pretrained = load_released(options.source, revision=options.revision)
    tokenizer = {
        "_target_": "etude.interop.recipe.Released",
        "source": options.source,
        "revision": pretrained.place.commit,
    }
    return model_node(pretrained.loaded), tokenizer


def _overridden_keys(config: DictConfig) -> list[str]:
    """Returns the overridden keys below `model`, except those below `model.head`."""
    keys = [item.lstrip("+").partition("=")[0] for item in config.run.overrides]
    return [key for key in keys if key.startswith("model.") and not key.startswith("model.head")]


def _check_overrides(config: DictConfig) -> None:
    """Raises `RequestError` if an override in `config.run.overrides` would replace the model, the
    tokenizer or the muP scaling, which `init_from.source` determines.
    """
    problems = []
    for item in config.run.overrides:
        key, _, value = item.lstrip("+").partition("=")
        is_model = key == "model" or (key.startswith("model/") and key != "model/head")
        if is_model or key.startswith("data/tokenizer"):
            what = "model" if is_model else "tokenizer"
            hint = "to change a single value, set model.<key>=..." if is_model else None
            expected = f"no override, because init_from.source determines the {what}"
            problems.append(Problem(key, expected, value, hint))
        if key == "model.mup_base_dim":  # the weights would fit, but be scaled differently
            expected = "no override, because init_from.source determines the muP scaling"
            problems.append(Problem(key, expected, value))
    if problems:
        raise RequestError(problems)


def _load_weights(source: WeightSource, options: Any, module: nn.Module) -> dict[str, Tensor]:
    """Returns the weights at `source`, as a dict from Étude's parameter names to tensors.

    If the head of the loaded model and the head of `module` have different classes, the weights of
    the loaded head are omitted. `module` is not changed.

    Args:
        source: Where the weights are.
        options: The config's `init_from`; its `source` and `revision` select pretrained weights.
        module: Model of the run.
    """
    head = head_class_name(module)
    if source.record is not None:
        weights = load_mean(source.checkpoints)
        config = read_config(source.record.path / "config.yaml")
        node = OmegaConf.select(config, "model.head")
        theirs = None if node is None else str(node.get("_target_")).rpartition(".")[2]
        if theirs is not None and theirs != head:
            weights = {name: x for name, x in weights.items() if not name.startswith("head.")}
        return weights
    from etude.interop.released_model import load_released

    loaded = load_released(options.source, revision=options.revision).loaded
    weights = dict(loaded.module.state_dict())
    if head_class_name(loaded.module) != head:
        weights = {name: x for name, x in weights.items() if not name.startswith("head.")}
    if head == "ClassificationHead":  # its first layer is the pooler of the pretrained model
        for kind in ("weight", "bias"):
            for name, tensor in loaded.rest.items():
                if name.endswith(f"pooler.dense.{kind}"):
                    weights.setdefault(f"head.dense.{kind}", tensor)
    return weights


def _load(module: nn.Module, weights: dict[str, Tensor], *, new_head: bool, grow: bool) -> None:
    own = dict(module.state_dict())
    replaceable = has_head(module)

    def is_in_head(name: str) -> bool:
        return replaceable and name.startswith("head.")

    problems: list[Problem] = []
    loaded: dict[str, Tensor] = {}
    for name, tensor in own.items():
        if ".lora." in name:
            continue
        if name not in weights:
            if not is_in_head(name):
                expected = "a tensor of this name in the weights of init_from.source"
                problems.append(Problem(f"init_from, {name}", expected))
        elif is_in_head(name) and new_head:
            continue
        elif grow and (rows := extend_positions(module, name, weights[name])) is not None:
            loaded[name] = rows
            added = len(rows) - len(weights[name])
            message = "%s: added %d untrained rows after the rows from init_from.source"
            log.warning(message, name, added)
        elif weights[name].shape != tensor.shape:
            have, want = (" x ".join(map(str, x.shape)) for x in (weights[name], tensor))
            hint = "to use a new head, set init_from.head=new" if is_in_head(name) else None
            expected = f"the shape {want}, as in the new run's model"
            problems.append(Problem(f"init_from, {name}", expected, have, hint))
        else:
            loaded[name] = weights[name]
    problems += [
        Problem(f"init_from, {name}", "only tensors that the new run's model contains")
        for name in weights
        if name not in own and not name.startswith("head.")
    ]
    if problems:
        more = len(problems) - MAX_SHOWN
        shown = problems[:MAX_SHOWN]
        if more > 0:
            remaining = f"{more} more incompatible tensors"
            shown.append(Problem("init_from", "weights that fit the new run's model", remaining))
        raise RequestError(shown)
    module.load_state_dict(loaded, strict=False)
    new = [name for name in own if name not in loaded and ".lora." not in name]
    suffix = f"; tensors with new initial values: {', '.join(new)}" if new else ""
    log.info("loaded %d tensors from the weights of init_from.source%s", len(loaded), suffix)
