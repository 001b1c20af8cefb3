"""Which checkpoints are retained, and what happens if one is damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from comparing import assert_same
from omegaconf import DictConfig
from safetensors.torch import load_file

from etude.api import Run
from etude.errors import RequestError
from etude.records.manifest import verify_checkpoint
from etude.records.opening import MANIFEST
from etude.records.record import Record
from etude.records.sealed import write_sealed
from etude.tasks.causal_lm import CausalLM
from etude.training.checkpoints import checkpoint_path, load_weights, retain
from etude.training.run import train

Small = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def whole(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Record:
    return train(small(tmp_path_factory.mktemp("whole"))).record


@pytest.mark.parametrize(
    ("more", "losses", "kept"),
    [
        # Validations at 7, 14, ..., 35 and 40; saves at multiples of 5 and at better validations.
        # The best, the last, and the one before the last stay.
        ([], [6, 5, 4, 3, 2, 1], [35, 40]),
        ([], [6, 1, 2, 3, 4, 5], [14, 35, 40]),
        ([], [1, 1, 1, 1, 1, 1], [7, 35, 40]),
        (["run.keep_every=10"], [6, 1, 2, 3, 4, 5], [10, 14, 20, 30, 35, 40]),
        (["run.save_every=null"], [6, 1, 2, 3, 4, 5], [14, 40]),
        (["run.save_every=null", "run.keep_every=7"], [6, 5, 4, 7, 7, 7], [7, 14, 21, 40]),
    ],
)
def test_what_is_kept(
    small: Small,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    more: list[str],
    losses: list[float],
    kept: list[int],
) -> None:
    original, measured = CausalLM.on_validation_epoch_end, iter(losses)

    def end(self: CausalLM) -> None:
        original(self)
        self.validation_metrics["val/loss"] = float(next(measured))

    monkeypatch.setattr(CausalLM, "on_validation_epoch_end", end)
    record = train(small(tmp_path, *more)).record
    assert [step for step, _ in record.checkpoints()] == kept
    best = losses.index(min(losses))
    step = [7, 14, 21, 28, 35, 40][best]
    assert record.info["best"] == {"metric": "val/loss", "value": losses[best], "step": step}
    assert record.checkpoint("best") == checkpoint_path(record.path / "checkpoints", step)
    assert record.checkpoint("last").name == "step-00000040"


def test_what_somebody_put_there_stays(tmp_path: Path) -> None:
    for name in ("step-00000001", "step-00000002", "step-00000001-copy", "notes"):
        (tmp_path / name).mkdir()
    retain(tmp_path, {2}, None)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["notes", "step-00000001-copy", "step-00000002"]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def rewrite(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


def manifest(folder: Path) -> dict[str, Any]:
    """Writes a manifest without its hash, like older versions."""
    content = json.loads((folder / "MANIFEST.json").read_text())
    del content["seal"]
    return content


DAMAGES = [
    ("model.safetensors", flip),
    ("model.safetensors", cut),
    ("model.safetensors", Path.unlink),
    ("state.pt", flip),
    ("state.pt", cut),
    ("state.pt", Path.unlink),
    ("MANIFEST.json", cut),
    ("MANIFEST.json", rewrite(lambda manifest: [])),
    ("MANIFEST.json", rewrite(lambda manifest: {**manifest, "sha256": 1})),
    ("MANIFEST.json", rewrite(lambda manifest: {**manifest, "format": 2})),
    ("MANIFEST.json", rewrite(lambda manifest: {**manifest, "step": 39})),
    ("MANIFEST.json", rewrite(lambda manifest: {**manifest, "metrics": {}})),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damage_is_named(
    whole: Record, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    copy = Record.read(shutil.copytree(whole.path, tmp_path / "copy"))
    file = copy.checkpoint("last") / name
    damage(file)
    with pytest.raises(RequestError) as caught:
        Run(copy).model("last")
    assert str(file) in str(caught.value)
    Run(copy).model("35")  # the one before is untouched


@pytest.mark.parametrize("change", [{"format": 2}, {"step": 39}, {"step": "40"}, {"sha256": {}}])
def test_a_manifest_of_an_older_version_is_checked_without_its_seal(
    whole: Record, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(whole.checkpoint("last"), tmp_path / "step-00000040"))
    without = manifest(folder)
    (folder / "MANIFEST.json").write_text(json.dumps(without))
    assert verify_checkpoint(folder)["step"] == 40
    (folder / "MANIFEST.json").write_text(json.dumps(without | change))
    with pytest.raises(RequestError, match=next(iter(change))):
        verify_checkpoint(folder)


def test_a_manifest_that_leaves_a_file_out(whole: Record, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole.checkpoint("last"), tmp_path / "step-00000040"))
    kept = {"state.pt": manifest(folder)["sha256"]["state.pt"]}
    write_sealed(folder / "MANIFEST.json", {**manifest(folder), "sha256": kept}, MANIFEST)
    flip(folder / "model.safetensors")
    with pytest.raises(RequestError, match=r"model\.safetensors"):
        load_weights(folder)


def test_the_manifest_says_what_is_there(whole: Record) -> None:
    for step, folder in whole.checkpoints():
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        assert manifest["step"] == step
        assert sorted(manifest["sha256"]) == ["model.safetensors", "state.pt"]
        assert sorted(path.name for path in folder.iterdir()) == [
            "MANIFEST.json",
            "model.safetensors",
            "state.pt",
        ]
        for name, digest in manifest["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("damaged", "resumed"), [([12], 10), ([10, 12], 7), ([7], 12), ([7, 10, 12], 0)]
)
def test_goes_on_from_the_one_before(
    small: Small,
    whole: Record,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    damaged: list[int],
    resumed: int,
) -> None:
    record = train(small(tmp_path, "run.stop_at_step=12")).record
    assert [step for step, _ in record.checkpoints()] == [7, 10, 12]
    for step in damaged:
        flip(checkpoint_path(record.path / "checkpoints", step) / "model.safetensors")
    caplog.clear()
    again = train(small(tmp_path)).record
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    met = [step for step in reversed(damaged) if step > resumed]
    assert len(warnings) == len(met)
    for step, message in zip(met, warnings, strict=True):
        assert f"step-{step:08d} is damaged" in message
    assert again.info["starts"][-1]["step"] == resumed
    assert_same(again, whole)


def test_a_loaded_model_has_the_weights(whole: Record) -> None:
    for which in ("best", "last", "35"):
        weights = load_file(whole.checkpoint(which) / "model.safetensors")
        module = Run(whole).model(which).module
        assert not module.training
        for name, parameter in module.named_parameters():
            assert torch.equal(parameter, weights[name])
    with pytest.raises(RequestError, match="available steps: 35, 40"):
        Run(whole).model("3")
