"""A model of ours into a folder that `transformers` opens, measured before it is believed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.data.tokenizer import Tokenizer
from etude.errors import Checks, EtudeError, Problem, RequestError
from etude.interop import comparing, tokenizers
from etude.interop.comparing import LogitDifference, UnreadableByTransformers, logit_difference
from etude.interop.family import Family, Model
from etude.interop.hf_config import NAME
from etude.interop.pretrained import family_for, save_weights
from etude.interop.released import ReleasedModel
from etude.interop.sentence_modules import MODULES, mean_head_logits, split_mean_head, write_modules
from etude.models.heads import MeanClassificationHead
from etude.models.mup import folded
from etude.records.files import sweep_temporaries, temporary
from etude.records.registry import check_outside

TOLERANCE = 1e-4
_ABANDONED = 3600.0  # seconds after which a half-written folder is a killed process's

log = logging.getLogger("etude.interop")


class LogitMismatch(EtudeError):
    """What was written does not compute what the source does."""


@dataclass(frozen=True)
class Source:
    """What is to be written.

    Attributes:
        named: as messages call it.
        module: ours.
        family, architecture: what it is written as.
        config: released fields that are kept; None for a model of ours.
        files: what `transformers` can read of the source itself; None for a model of ours.
        folder: whose files for text are copied.
        rest: see `etude.interop.pretrained.Loaded`.
        begin, ends, chat: see `etude.interop.tokenizers.write`.
        fields: of `config.json`, besides those of the family: names of labels and the like.
        mean: what reads the mean of the module's vectors, which is written as modules of
            `sentence-transformers`; None for all other models.
        reads: the most tokens of a text that it was trained on; None is all that it can read.
    """

    named: str
    module: Model
    family: Family
    architecture: str
    tokenizer: Tokenizer | None
    config: Mapping[str, Any] | None = None
    files: Path | None = None
    folder: Path | None = None
    rest: Mapping[str, Tensor] = field(default_factory=dict)
    begin: int | None = None
    ends: Sequence[int] = ()
    chat: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    mean: MeanClassificationHead | None = None
    reads: int | None = None

    @property
    def pad(self) -> int | None:
        """The id of padding."""
        found = None if self.config is None else self.config.get("pad_token_id")
        return found if isinstance(found, int) else None


def of_released(named: str, released: ReleasedModel) -> Source:
    """What was read from a folder, a file or the hub."""
    loaded = released.loaded
    if released.without is not None:
        log.warning("without a tokenizer: %s", released.without)
    place = released.place
    return Source(
        named=named if place.commit is None else f"{named} (commit {place.commit})",
        module=loaded.module,
        family=loaded.family,
        architecture=loaded.architecture,
        tokenizer=released.tokenizer,
        config=loaded.config,
        files=place.path,
        folder=released.folder,
        rest=loaded.rest,
        begin=released.ends.begin,
        ends=released.ends.stops,
        chat=released.chat,
    )


def of_run(
    named: str,
    module: Any,
    tokenizer: Tokenizer,
    *,
    labels: Sequence[str] = (),
    ending: str = "",
    fields: Mapping[str, Any] | None = None,
    reads: int | None = None,
) -> Source:
    """A model that was trained here; what muP multiplies with goes into the weights.

    Args:
        labels: of its head.
        ending: of the class that the task is written as, where several of a family have the
            model's head: `ForQuestionAnswering`.
        fields: of `config.json`, that the task states.
        reads: the most tokens of a text that it was trained on.

    Raises:
        RequestError: no family has all its parts; they are named.
    """
    module, mean = split_mean_head(folded(module))
    family = family_for(module)
    architecture = family.architecture_for(module, ending)
    end = tokenizer.end_of_text
    named_labels = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    return Source(
        named=named,
        module=module,
        family=family,
        architecture=architecture,
        tokenizer=tokenizer,
        ends=() if end is None else (end,),
        fields={**(named_labels if labels else {}), **(fields or {})},
        mean=mean,
        reads=reads,
    )


def check_destination(destination: Path, *, force: bool) -> None:
    """Refuses a place that cannot be written to, before anything is read.

    Raises:
        RequestError: something is there and `force` is not given, or it is no folder of a model;
            there is no folder to put it in, or that is part of a record.
    """
    if not destination.parent.is_dir():
        expected = "a place in a folder that exists"
        raise RequestError(Problem("DEST", expected, str(destination)))
    check_outside(destination, "DEST")
    if not destination.exists():
        return
    if not force:
        expected = "a folder that is not there yet"
        raise RequestError(Problem("DEST", expected, str(destination), "--force replaces it"))
    mine = destination.is_dir() and not destination.is_symlink()
    if not mine or (any(destination.iterdir()) and not (destination / NAME).is_file()):
        expected = f"a folder of a model, with {NAME}: nothing else is replaced"
        raise RequestError(Problem("DEST", expected, str(destination)))


def convert(
    source: Source,
    destination: Path,
    *,
    dtype: torch.dtype | None = None,
    tolerance: float = TOLERANCE,
    force: bool = False,
    tell: Callable[[str], None] = log.info,
) -> dict[str, LogitDifference]:
    """Writes `config.json`, weights and tokenizer, and compares logits both ways: of the source as
    `transformers` reads it with ours, and of what was written, likewise. Where `transformers` is
    not installed, what was written is read again by us.

    The folder appears at the end, whole, or not at all.

    Args:
        destination: the folder.
        dtype: of the weights that are written; None is the source's. The comparison is with the
            source's weights rounded to it.
        tolerance: of the largest difference of a logit.
        force: replace a folder of a model.
        tell: is called with what is being done, and with the differences.

    Returns:
        The differences by what was read and by whom.

    Raises:
        RequestError: see `check_destination`; a source that is the destination.
        LogitMismatch: a difference is above the tolerance; nothing is left.
    """
    checks = Checks()
    checks.positive(tolerance=tolerance)
    checks.done()
    destination = Path(destination)
    check_destination(destination, force=force)
    same = source.folder is not None and destination.exists()
    if same and destination.samefile(source.folder or ""):
        raise RequestError(Problem("DEST", "another folder than the source", str(destination)))
    # Hidden, and of this process: what another has just begun to write is not touched.
    sweep_temporaries(destination.parent, of=destination.name, age=_ABANDONED)
    beside = temporary(destination)
    found: dict[str, LogitDifference] = {}
    try:
        kind, size = source.family.model_type, _format_size(source.module)
        tell(f"writing {source.named} as {kind}, {size} parameters")
        beside.mkdir()
        save_weights(
            source.module,
            beside,
            family=source.family,
            config=source.config,
            architecture=source.architecture,
            rest=source.rest,
            dtype=dtype,
        )
        _write_tokenizer(source, beside)
        if source.mean is not None:
            write_modules(beside, source.mean, source.reads or source.module.max_length)
        ours = comparing.logits_of(source.module, source.architecture, source.pad)
        if source.files is not None:
            tell("comparing with the source as transformers reads it")
            try:
                theirs = _transformers_logits(source, source.files)
                found["source by transformers"] = logit_difference(ours, theirs)
            except UnreadableByTransformers as error:
                tell(f"the source is not compared: {error}")
        if dtype is not None and dtype != next(source.module.parameters()).dtype:
            rounded = deepcopy(source.module).to(dtype)
            exact, ours = ours, comparing.logits_of(rounded, source.architecture, source.pad)
            moved = logit_difference(exact, ours)
            name = str(dtype).removeprefix("torch.")
            tell(
                f"rounding to {name} moves logits by at most {moved.largest:.2g}, "
                f"in the mean {moved.mean:.2g}"
            )
        tell("comparing with what was written")
        try:
            theirs, reader = _transformers_logits(source, beside), "transformers"
        except UnreadableByTransformers as error:
            if "not installed" not in str(error):
                raise LogitMismatch(f"{destination} is not kept: {error}") from error
            tell(f"{error}: what was written is read again by Étude instead")
            theirs = comparing.logits_read_again(beside, source.architecture, source.pad)
            reader = "Étude"
        found[f"{destination.name} by {reader}"] = logit_difference(ours, theirs)
        if source.mean is not None:
            head = deepcopy(source.mean).double().eval()
            with torch.inference_mode():
                said = head(ours.double())
            pooled = mean_head_logits(beside, theirs.double())
            found[f"the logits of {MODULES}"] = logit_difference(said, pooled)
        _report_differences(found, tell)
        wrong = [what for what, apart in found.items() if not apart.within(tolerance)]
        if wrong:
            raise LogitMismatch(
                f"logits differ by more than {tolerance:g}: {' and '.join(wrong)}; "
                f"{destination} is not written"
            )
        _move_into_place(beside, destination)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return found


def _transformers_logits(source: Source, files: Path) -> Tensor:
    return comparing.logits_of_transformers(files, source.architecture, source.module, source.pad)


def _write_tokenizer(source: Source, folder: Path) -> None:
    if source.tokenizer is None:
        return
    tokenizers.write(
        folder,
        source.tokenizer,
        source=source.folder,
        begin=source.begin,
        ends=source.ends,
        max_length=source.module.max_length,
        chat=source.chat,
        types=has_types(source.module),
    )
    fields = dict(source.fields)
    if source.config is None and source.ends:  # a family's defaults are ids of its own tokenizer
        fields |= {f"{each}_token_id": source.ends[0] for each in ("bos", "eos")}
    if fields:
        file = folder / NAME
        stated = json.loads(file.read_text(encoding="utf-8"))
        text = json.dumps({**stated, **fields}, indent=2, sort_keys=True, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")


def has_types(module: Any) -> bool:
    """Whether a model tells the second of two texts from the first by token types."""
    types = getattr(module, "token_types", None)
    return types is not None and types.num_embeddings > 1


def _move_into_place(beside: Path, destination: Path) -> None:
    """Renames; what was there is gone once the new folder is in its place."""
    if not destination.exists():
        beside.replace(destination)
        return
    old = temporary(destination, "-old")
    destination.replace(old)
    try:
        beside.replace(destination)
    except OSError:
        old.replace(destination)
        raise
    shutil.rmtree(old)


def _report_differences(found: Mapping[str, LogitDifference], tell: Callable[[str], None]) -> None:
    width = max(map(len, found))
    for what, apart in found.items():
        tell(
            f"{what:<{width}}  largest {apart.largest:.2e}  mean {apart.mean:.2e}  "
            f"(logits up to {apart.scale:.3g})"
        )


def _format_size(module: Model) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M"
