"""Where a run's weights begin: with another run's, or with released ones."""

from __future__ import annotations

import hashlib
import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import Tensor, nn

from etude.config.schema import InitFrom
from etude.config.targets import resolve
from etude.errors import Problem, RequestError
from etude.models.families import has_head, head_of
from etude.records import opening
from etude.records.config_file import portable, read_config
from etude.records.files import sha256_file
from etude.records.integrity import CONFIG, TOKENIZER
from etude.records.manifest import WEIGHTS, read_manifest
from etude.records.record import Record
from etude.records.registry import find, is_record
from etude.training.checkpoints import load_mean
from etude.training.growing import grown, grown_length

log = logging.getLogger("etude")

SHOWN = 4


@dataclass
class Source:
    """Where the weights lie, found.

    Attributes:
        record: of a run, and
        checkpoints: the folders with its weights, or those whose mean it is; None and none for
            released weights.
        path: of these.
    """

    record: Record | None = None
    checkpoints: tuple[Path, ...] = ()
    path: Path | None = None
    repository: str | None = None
    commit: str | None = None


class Initial:
    """What `init_from` says, carried out: in the config, and in the weights."""

    @classmethod
    def settled(cls, config: DictConfig) -> DictConfig:
        """The config with the source's model and tokenizer in it, and with what the source is.

        Args:
            config: as composed; left as it is.

        Raises:
            RequestError: there is no such source, or the request contradicts it.
        """
        asked = config.init_from
        source = _locate(asked, Path(config.run.root))
        _check_typed(config)
        result = config.copy()
        if source.record is not None:
            node, tokenizer = _of_run(source)
        else:
            try:
                node, tokenizer = _of_release(asked)
            except RequestError as error:
                nameless = (".", "SOURCE")  # what was typed says more
                raise RequestError(
                    Problem("init_from", p.expected, str(asked.source), p.hint)
                    if p.where in nameless
                    else p
                    for p in error.problems
                ) from error
        head = OmegaConf.select(config, "model.head")
        if "head" in node or "encoder.Encoder" in str(node.get("_target_")):
            node["head"] = _usual_head(config) if head is None else _plain(head)
        with open_dict(result):
            result.model = node
            for key in _typed_keys(config):
                OmegaConf.update(result, key, OmegaConf.select(config, key), force_add=True)
            if "max_length" in node:
                stated = OmegaConf.select(config, "model.max_length")
                typed = "model.max_length" in _typed_keys(config)
                result.model.max_length = grown_length(node, config, stated if typed else None)
            if "tokenizer" in result.data:
                result.data.tokenizer = tokenizer
            result.init_from.found = _what(source)
        return result

    @classmethod
    def fill(cls, module: nn.Module, asked: InitFrom | DictConfig, root: Path) -> None:
        """Puts the source's weights into `module`, all but those of a head that is new.

        Raises:
            RequestError: the source is gone or is not what it was, or its weights do not fit.
        """
        source = _locate(asked, root)
        found = _what(source)
        if dict(asked.found) != found:
            hint = "it has changed since; run.on_existing=again begins anew from what it is now"
            raise RequestError(Problem("init_from", f"{dict(asked.found)}", found, hint))
        weights = _weights(source, asked, module)
        _put(module, weights, new_head=asked.head == "new", grow=bool(asked.grow_positions))


def _locate(asked: Any, root: Path) -> Source:
    typed = str(asked.source)
    if not typed.strip():
        raise RequestError(Problem("init_from", "a run, a folder of weights, or a hub id", typed))
    path = Path(typed).expanduser()
    if path.exists() and not is_record(path):
        if asked.revision is not None:
            expected = "none: the source is a path on this machine"
            raise RequestError(Problem("init_from.revision", expected, asked.revision))
        return Source(path=path)
    try:
        record = find(typed, root)
    except RequestError as unknown:
        from etude.interop.hub import is_hub_id, locate

        if path.exists() or not is_hub_id(typed):
            raise RequestError(_here(problem) for problem in unknown.problems) from unknown
        try:
            place = locate(typed, asked.revision)
        except RequestError as error:
            expected = "a run, a folder of released weights, or a hub id that can be read"
            hints = [problem.hint or problem.expected for problem in error.problems]
            hint = f"no run of that name below {root}; the hub: {'; '.join(hints)}"
            raise RequestError(Problem("init_from", expected, typed, hint)) from error
        return Source(path=place.path, repository=place.repository, commit=place.commit)
    folders = record.chosen(asked.checkpoint).folders
    record.check(CONFIG, TOKENIZER)
    record.check_weights(folders)
    return Source(record=record, checkpoints=tuple(folders))


_HEADS = {
    "classes": "etude.models.heads.ClassificationHead",
    "tags": "etude.models.heads.TaggingHead",
    "vocabulary": "etude.models.heads.MaskedLanguageHead",
}


def _usual_head(config: DictConfig) -> dict[str, Any] | None:
    """That which the task needs, where no file says one."""
    task: Any = resolve(str(config.task.get("_target_")), "task", config.extensions)
    target = _HEADS.get(getattr(task, "head", None) or "")
    return None if target is None else {"_target_": target, "_partial_": True}


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node, resolve=True)


def _here(problem: Problem) -> Problem:
    return Problem("init_from", problem.expected, problem.value, problem.hint)


def _what(source: Source) -> dict[str, Any]:
    """What a source is, whatever it is called: for the signature."""
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


def _of_run(source: Source) -> tuple[dict[str, Any], dict[str, Any]]:
    assert source.record is not None
    config = portable(read_config(source.record.path / "config.yaml"))
    plain: Any = OmegaConf.to_container(config, resolve=True)
    node = dict(plain["model"])
    reads_tokens = "vocab_size" in _parameters(node, config)
    if reads_tokens and node.get("vocab_size") is None:
        node["vocab_size"] = source.record.info["tokenizer"]["size"]
    path = str(source.record.path / "tokenizer.json")
    with opening.opened(path, opening.TOKENIZER):  # whoever reads it by its path follows links
        pass
    return node, {"_target_": "etude.data.pretrained.Pretrained", "path": path}


def _parameters(node: Mapping[str, Any], config: DictConfig) -> Mapping[str, Any]:
    """Those of the model's constructor."""
    return inspect.signature(resolve(node["_target_"], "model", config.extensions)).parameters


def _of_release(asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    from etude.interop.describe import node_of
    from etude.interop.released import read

    found = read(asked.source, revision=asked.revision)
    tokenizer = {
        "_target_": "etude.interop.recipe.Released",
        "source": asked.source,
        "revision": found.place.commit,
    }
    return node_of(found.loaded), tokenizer


def _typed_keys(config: DictConfig) -> list[str]:
    """The keys of the model that the user typed, one by one."""
    keys = [item.lstrip("+").partition("=")[0] for item in config.run.overrides]
    return [key for key in keys if key.startswith("model.") and not key.startswith("model.head")]


def _check_typed(config: DictConfig) -> None:
    """Refuses a choice of files for what is the source's."""
    problems = []
    for item in config.run.overrides:
        key, _, value = item.lstrip("+").partition("=")
        whole = key == "model" or (key.startswith("model/") and key != "model/head")
        if whole or key.startswith("data/tokenizer"):
            what = "model" if whole else "tokenizer"
            hint = "model.<key>=... changes one of its values" if whole else None
            expected = f"nothing beside init_from: the {what} is the source's"
            problems.append(Problem(key, expected, value, hint))
        if key == "model.mup_base_dim":  # the weights would fit, and mean something else
            expected = "nothing beside init_from: what the weights mean is the source's"
            problems.append(Problem(key, expected, value))
    if problems:
        raise RequestError(problems)


def _weights(source: Source, asked: Any, module: nn.Module) -> dict[str, Tensor]:
    """The source's weights by the names of our modules, without a head of another kind."""
    head = head_of(module)
    if source.record is not None:
        weights = load_mean(source.checkpoints)
        config = read_config(source.record.path / "config.yaml")
        node = OmegaConf.select(config, "model.head")
        theirs = None if node is None else str(node.get("_target_")).rpartition(".")[2]
        if theirs is not None and theirs != head:
            weights = {name: x for name, x in weights.items() if not name.startswith("head.")}
        return weights
    from etude.interop.released import read

    loaded = read(asked.source, revision=asked.revision).loaded
    weights = dict(loaded.module.state_dict())
    if head_of(loaded.module) != head:
        weights = {name: x for name, x in weights.items() if not name.startswith("head.")}
    if head == "ClassificationHead":  # a body's pooler is the first half of it
        for kind in ("weight", "bias"):
            for name, tensor in loaded.rest.items():
                if name.endswith(f"pooler.dense.{kind}"):
                    weights.setdefault(f"head.dense.{kind}", tensor)
    return weights


def _put(module: nn.Module, weights: dict[str, Tensor], *, new_head: bool, grow: bool) -> None:
    mine = dict(module.state_dict())
    replaceable = has_head(module)

    def of_the_head(name: str) -> bool:
        return replaceable and name.startswith("head.")

    problems: list[Problem] = []
    taken: dict[str, Tensor] = {}
    for name, tensor in mine.items():
        if ".lora." in name:
            continue
        if name not in weights:
            if not of_the_head(name):
                problems.append(Problem(f"init_from, {name}", "such a tensor in the source"))
        elif of_the_head(name) and new_head:
            continue
        elif grow and (rows := grown(module, name, weights[name])) is not None:
            taken[name] = rows
            added = len(rows) - len(weights[name])
            log.warning("%s: %d rows beyond the source's begin untrained", name, added)
        elif weights[name].shape != tensor.shape:
            have, want = (" x ".join(map(str, x.shape)) for x in (weights[name], tensor))
            hint = "init_from.head=new begins with a new one" if of_the_head(name) else None
            problems.append(Problem(f"init_from, {name}", f"the shape {want}", have, hint))
        else:
            taken[name] = weights[name]
    problems += [
        Problem(f"init_from, {name}", "a tensor that the model has")
        for name in weights
        if name not in mine and not name.startswith("head.")
    ]
    if problems:
        more = len(problems) - SHOWN
        shown = problems[:SHOWN]
        if more > 0:
            shown.append(Problem("init_from", "weights that fit the model", f"{more} more misfits"))
        raise RequestError(shown)
    module.load_state_dict(taken, strict=False)
    new = [name for name in mine if name not in taken and ".lora." not in name]
    told = f"; new: {', '.join(new)}" if new else ""
    log.info("begins with %d tensors of the source%s", len(taken), told)
