"""Export of models to folders that `transformers` can load, with a comparison of the logits."""

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
from etude.interop import logit_comparison, tokenizers
from etude.interop.family import Family, Model
from etude.interop.hf_config import NAME
from etude.interop.logit_comparison import (
    LogitDifference,
    UnreadableByTransformers,
    logit_difference,
)
from etude.interop.pretrained import family_for, save_weights
from etude.interop.released_model import ReleasedModel
from etude.interop.sentence_modules import MODULES, mean_head_logits, split_mean_head, write_modules
from etude.models.heads import MeanClassificationHead
from etude.models.mup import fold_mup
from etude.records.files import remove_temporaries, temporary_path
from etude.records.registry import check_outside

TOLERANCE = 1e-4
_ABANDONED = 3600.0  # seconds after which an incomplete folder counts as left by a killed process

log = logging.getLogger("etude.interop")


class LogitMismatch(EtudeError):
    """Raised when the logits of an export differ too much from those of the model that was
    exported, or when `transformers` cannot load the export.
    """


@dataclass(frozen=True)
class ExportSource:
    """A model to export, with its tokenizer and its config.

    Attributes:
        named: the name of the model in messages, such as its path.
        module: the Étude module.
        family, architecture: the model family, and the class of `transformers`, to export the
            module as.
        config: the fields of the released model's `config.json`, which the export preserves; None
            for a trained run.
        files: the path of the released model, which `transformers` can load; None for a trained
            run.
        folder: the folder whose tokenizer files are copied; None to write them from `tokenizer`.
        rest: tensors that the module does not use; see `etude.interop.pretrained.LoadedModel`.
        begin, ends, chat: the id of the token before a text, the stop tokens, and the chat
            template; see `etude.interop.tokenizers.write_tokenizer`.
        fields: additional fields of `config.json`, such as the names of the labels.
        mean: the head that classifies the mean of the module's output vectors, exported as modules
            of `sentence-transformers`; None for all other models.
        reads: the maximum number of tokens per text in training, saved with the head `mean`; if
            None, the model's maximum is saved. Without such a head, it is not used.
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
        """The padding token's id; None if the config does not contain one."""
        token = None if self.config is None else self.config.get("pad_token_id")
        return token if isinstance(token, int) else None


def source_from_released(named: str, released: ReleasedModel) -> ExportSource:
    """Returns the `ExportSource` of a released model; `named` is the model's name in messages.

    If the model's tokenizer could not be read, logs a warning: no tokenizer is exported.
    """
    loaded = released.loaded
    if released.tokenizer_error is not None:
        log.warning("no tokenizer is exported: %s", released.tokenizer_error)
    location = released.place
    return ExportSource(
        named=named if location.commit is None else f"{named} (commit {location.commit})",
        module=loaded.module,
        family=loaded.family,
        architecture=loaded.architecture,
        tokenizer=released.tokenizer,
        config=loaded.config,
        files=location.path,
        folder=released.folder,
        rest=loaded.rest,
        begin=released.ends.begin,
        ends=released.ends.stops,
        chat=released.chat,
    )


def source_from_run(
    named: str,
    module: Any,
    tokenizer: Tokenizer,
    *,
    labels: Sequence[str] = (),
    ending: str = "",
    fields: Mapping[str, Any] | None = None,
    reads: int | None = None,
) -> ExportSource:
    """Returns the `ExportSource` of a trained model.

    muP's multipliers are multiplied into the weights, as `transformers` does not have them.

    Args:
        named: the name of the model in messages.
        tokenizer: the tokenizer of the run.
        labels: the names of the head's labels; empty for a model without labels.
        ending: the end of the name of the class to export as, such as `ForQuestionAnswering`. It is
            needed if several classes of the family have the model's head; without it, the first of
            these classes is used.
        fields: additional fields of `config.json`, set by the task.
        reads: see `ExportSource`.

    Raises:
        RequestError: no family has all components of the model; the message names the components
            that are missing in the most similar families.
    """
    module, mean = split_mean_head(fold_mup(module))
    family = family_for(module)
    architecture = family.architecture_for(module, ending)
    end = tokenizer.end_of_text
    named_labels = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    return ExportSource(
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
    """Checks that a model can be exported to `destination`.

    Raises:
        RequestError: the parent folder is missing; the destination is in a run folder; the
            destination exists and `force` is false; or the destination exists and is neither an
            empty folder nor a folder with a `config.json`.
    """
    if not destination.parent.is_dir():
        expected = "a path in an existing folder"
        raise RequestError(Problem("DEST", expected, str(destination)))
    check_outside(destination, "DEST")
    if not destination.exists():
        return
    if not force:
        expected = "a path that does not exist yet"
        hint = "to replace an existing model folder, add --force"
        raise RequestError(Problem("DEST", expected, str(destination), hint))
    is_folder = destination.is_dir() and not destination.is_symlink()
    if not is_folder or (any(destination.iterdir()) and not (destination / NAME).is_file()):
        expected = f"an empty folder, or the folder of a model with {NAME}"
        hint = "choose another DEST; --force replaces only the folder of a model"
        raise RequestError(Problem("DEST", expected, str(destination), hint))


def export(
    source: ExportSource,
    destination: Path,
    *,
    dtype: torch.dtype | None = None,
    tolerance: float = TOLERANCE,
    force: bool = False,
    tell: Callable[[str], None] = log.info,
) -> dict[str, LogitDifference]:
    """Writes a model's `config.json`, weights and tokenizer to a folder, and compares the logits.

    The source (if it is a released model) and the export are loaded with `transformers`, and the
    logits of both are compared with those of the Étude module. If `transformers` is not installed,
    Étude loads the export. The source is not compared if `transformers` is not installed or cannot
    load it.

    The folder is created only after all comparisons have passed, so it is never incomplete.

    Args:
        source: the model.
        destination: the folder to write.
        dtype: the dtype of the exported weights; if None, the source's. The export's logits are
            compared with those of the source's weights rounded to this dtype.
        tolerance: the largest accepted absolute difference of a logit, above 0.
        force: whether to replace an existing model folder.
        tell: a function that is called with each message about the progress and the differences.

    Returns:
        The differences from the Étude module's logits. Each key names the model that was loaded and
        the library that loaded it: `source by transformers`, and the destination's name followed
        by `by transformers` or `by Étude`. With a mean head, these are differences of the output
        vectors, and the key `the logits of modules.json` has the difference of the logits.

    Raises:
        RequestError: see `check_destination`; the source and the destination are the same folder.
        LogitMismatch: a difference exceeds the tolerance, or `transformers` cannot load the export.
            The destination is unchanged.
    """
    checks = Checks()
    checks.positive(tolerance=tolerance)
    checks.done()
    destination = Path(destination)
    check_destination(destination, force=force)
    same = source.folder is not None and destination.exists()
    if same and destination.samefile(source.folder or ""):
        raise RequestError(Problem("DEST", "a folder other than SOURCE", str(destination)))
    # The age protects the folder that another process is writing.
    remove_temporaries(destination.parent, of=destination.name, age=_ABANDONED)
    staging = temporary_path(destination)
    differences: dict[str, LogitDifference] = {}
    try:
        kind, size = source.family.model_type, _format_size(source.module)
        tell(f"writing {source.named} as {kind}, {size} parameters")
        staging.mkdir()
        save_weights(
            source.module,
            staging,
            family=source.family,
            config=source.config,
            architecture=source.architecture,
            rest=source.rest,
            dtype=dtype,
        )
        _write_tokenizer(source, staging)
        if source.mean is not None:
            write_modules(staging, source.mean, source.reads or source.module.max_length)
        ours = logit_comparison.logits_of(source.module, source.architecture, source.pad)
        if source.files is not None:
            tell("loading the source model with transformers to compare its logits with Étude's")
            try:
                theirs = _transformers_logits(source, source.files)
                differences["source by transformers"] = logit_difference(ours, theirs)
            except UnreadableByTransformers as error:
                tell(f"the source model's logits in transformers are not compared: {error}")
        if dtype is not None and dtype != next(source.module.parameters()).dtype:
            rounded = deepcopy(source.module).to(dtype)
            exact, ours = ours, logit_comparison.logits_of(rounded, source.architecture, source.pad)
            moved = logit_difference(exact, ours)
            name = str(dtype).removeprefix("torch.")
            tell(
                f"rounding to {name} changes the logits by at most {moved.largest:.2g}, "
                f"{moved.mean:.2g} on average"
            )
        tell("loading the exported model to compare its logits with Étude's")
        try:
            theirs, reader = _transformers_logits(source, staging), "transformers"
        except UnreadableByTransformers as error:
            if "not installed" not in str(error):
                raise LogitMismatch(
                    f"transformers cannot load the export, so {destination} was not written: "
                    f"{error}"
                ) from error
            tell(f"{error}: Étude loads the exported model instead")
            theirs = logit_comparison.logits_read_again(staging, source.architecture, source.pad)
            reader = "Étude"
        differences[f"{destination.name} by {reader}"] = logit_difference(ours, theirs)
        if source.mean is not None:
            head = deepcopy(source.mean).double().eval()
            with torch.inference_mode():
                expected = head(ours.double())
            pooled = mean_head_logits(staging, theirs.double())
            differences[f"the logits of {MODULES}"] = logit_difference(expected, pooled)
        _report_differences(differences, tell)
        wrong = [name for name, each in differences.items() if not each.within(tolerance)]
        if wrong:
            raise LogitMismatch(
                f"these logits differ from Étude's by more than {tolerance:g}: "
                f"{' and '.join(wrong)}; {destination} was not written"
            )
        _move_into_place(staging, destination)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return differences


def _transformers_logits(source: ExportSource, files: Path) -> Tensor:
    return logit_comparison.logits_of_transformers(
        files, source.architecture, source.module, source.pad
    )


def _write_tokenizer(source: ExportSource, folder: Path) -> None:
    if source.tokenizer is None:
        return
    tokenizers.write_tokenizer(
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
    if source.config is None and source.ends:  # a family's default ids are of another tokenizer
        fields |= {f"{each}_token_id": source.ends[0] for each in ("bos", "eos")}
    if fields:
        file = folder / NAME
        stated = json.loads(file.read_text(encoding="utf-8"))
        text = json.dumps({**stated, **fields}, indent=2, sort_keys=True, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")


def has_types(module: Any) -> bool:
    """Returns whether a model uses token types to distinguish the two texts of a pair."""
    types = getattr(module, "token_types", None)
    return types is not None and types.num_embeddings > 1


def _move_into_place(staging: Path, destination: Path) -> None:
    """Renames the finished folder `staging` to `destination`, and deletes the replaced folder.

    If `staging` cannot be renamed, an existing folder at `destination` is kept.
    """
    if not destination.exists():
        staging.replace(destination)
        return
    old = temporary_path(destination, "-old")
    destination.replace(old)
    try:
        staging.replace(destination)
    except OSError:
        old.replace(destination)
        raise
    shutil.rmtree(old)


def _report_differences(
    differences: Mapping[str, LogitDifference], tell: Callable[[str], None]
) -> None:
    width = max(map(len, differences))
    for name, each in differences.items():
        tell(
            f"{name:<{width}}  largest {each.largest:.2e}  mean {each.mean:.2e}  "
            f"(logits up to {each.scale:.3g})"
        )


def _format_size(module: Model) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f} M"
