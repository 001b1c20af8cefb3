"""Loading and saving of each family and variant of `transformers`, without any loss."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from plain import PLAIN
from safetensors.torch import load_file
from torch import Tensor
from zoo import ALL, DECODERS, MAX, PAIRS, V, randomised

from etude.interop.pretrained import LoadedModel, family_for, load_weights, save_weights

CONF = Path(__file__).parents[2] / "conf" / "model"
RELEASED = {
    "gpt2": "gpt2", "gpt2_medium": "gpt2", "gpt2_large": "gpt2", "gpt2_xl": "gpt2",
    "pythia_70m": "gpt_neox", "pythia_160m": "gpt_neox", "smollm2_135m": "llama",
    "llama_1b": "llama", "qwen3_0_6b": "qwen3", "bert_tiny": "bert", "bert_base": "bert",
    "bert_large": "bert", "roberta_base": "roberta", "t5_small": "t5", "t5_base": "t5",
    "marian_base": "marian",
}  # fmt: skip
B, T = 3, 11
EXACT = ("gpt2", "bert", "roberta", "marian")
"""Families that `transformers` computes in the precision of the weights."""


def ids(shape: tuple[int, int], seed: int = 1) -> Tensor:
    """Returns random tokens without special ones."""
    return torch.randint(3, V - 2, shape, generator=torch.Generator().manual_seed(seed))


def opened(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, LoadedModel]:
    """Returns a model of the zoo, and ours, loaded from its files."""
    theirs = randomised(ALL[name](), dtype)
    theirs.save_pretrained(folder)
    loaded = load_weights(folder)
    assert {p.dtype for p in loaded.module.parameters()} == {dtype}
    return theirs, loaded


def output(found: Any) -> Tensor:
    """Returns the logits, or the vectors of a body."""
    if "start_logits" in found:
        return torch.stack((found["start_logits"], found["end_logits"]), -1)
    for key in ("logits", "prediction_logits", "last_hidden_state"):
        if (value := getattr(found, key, None)) is not None:
            return value
    raise AssertionError(found.keys())


def both(name: str, theirs: Any, loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    """Returns the outputs of both models for the same tokens."""
    source = ids((B, T))
    if name in PAIRS:
        target = ids((B, 7), seed=2)
        said = theirs(input_ids=source, decoder_input_ids=target)
        return loaded.module(source, target), output(said)
    return loaded.module(source), output(theirs(source))


def close(ours: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    assert expected.std() > 0.3
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ALL)
@torch.inference_mode()
def test_same_output_and_loss_as_transformers(name, tmp_path):
    theirs, loaded = opened(name, tmp_path)
    ours, expected = both(name, theirs, loaded)
    close(ours, expected)
    source, labels = ids((B, T)), ids((B, T), seed=3)
    if name in DECODERS:
        labels = source
        loss = F.cross_entropy(ours[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        said = theirs(source, labels=labels).loss
    elif name in PAIRS:
        target, labels = ids((B, 7), seed=2), ids((B, 7), seed=3)
        said = theirs(input_ids=source, decoder_input_ids=target, labels=labels).loss
        loss = F.cross_entropy(ours.flatten(0, 1), labels.flatten())
    elif name.endswith(("classes", "tags")):
        labels = labels % ours.shape[-1]
        labels = labels[:, 0] if ours.ndim == 2 else labels
        loss = F.cross_entropy(ours.flatten(0, -2), labels.flatten())
        said = theirs(source, labels=labels).loss
    elif name in ("bert", "roberta"):
        loss, said = F.cross_entropy(ours.mT, labels), theirs(source, labels=labels).loss
    else:
        return  # a body has no loss
    torch.testing.assert_close(loss, said, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
@torch.inference_mode()
def test_same_output_in_padded_batches(name, tmp_path):
    theirs, loaded = opened(name, tmp_path)
    source = ids((B, T))
    keep = torch.arange(T) < torch.tensor([[T], [T - 4], [2]])  # padding on the right
    if name in PAIRS:
        target = ids((B, 7), seed=2)
        said = theirs(input_ids=source, attention_mask=keep.long(), decoder_input_ids=target)
        close(loaded.module(source, target, source_keep=keep), output(said))
        return
    if name in DECODERS:
        keep = keep.flip(1)
        positions = (keep.cumsum(1) - 1).clamp(min=0)
        ours = loaded.module(source, keep=keep, positions=positions)
        said = theirs(source, attention_mask=keep.long(), position_ids=positions)
    else:
        ours = loaded.module(source, keep=keep)
        said = theirs(source, attention_mask=keep.long(), **right_positions(name, keep))
    expected = output(said)
    shown = keep if expected.ndim == 3 and expected.shape[1] == T else torch.ones(B).bool()
    close(ours[shown], expected[shown])


def right_positions(name: str, keep: Tensor) -> dict[str, Tensor]:
    """Returns position ids, since RoBERTa derives positions from the padding token, absent here."""
    first = 2 if name.startswith("roberta") else 0
    return {"position_ids": (torch.arange(T) + first).expand(keep.shape)}


@pytest.mark.parametrize("name", [*DECODERS, *PAIRS])
@torch.inference_mode()
def test_same_logits_in_pieces_with_a_cache(name, tmp_path):
    theirs, loaded = opened(name, tmp_path)
    source = ids((B, T))
    if name in PAIRS:
        target = ids((B, 7), seed=2)
        read = loaded.module.reading(source)
        expected = output(theirs(input_ids=source, decoder_input_ids=target))
    else:
        target, read = source, loaded.module
        expected = output(theirs(source))
    cache = read.new_cache(B, MAX)
    pieces = [read(piece, cache) for piece in target.split([3, 1, target.shape[1] - 4], dim=1)]
    close(torch.cat(pieces, dim=1), expected)


@pytest.mark.parametrize("name", ALL)
@torch.inference_mode()
def test_float64(name, tmp_path):
    theirs, loaded = opened(name, tmp_path, torch.float64)
    if name.startswith("marian"):
        exact_sinusoids(theirs)
    ours, expected = both(name, theirs, loaded)
    close(ours, expected, 1e-9 if name.startswith(EXACT) else 1e-5)
    family = loaded.family.model_type
    if family in PLAIN:
        weights = {key: value.double() for key, value in theirs.state_dict().items()}
        target = [ids((B, 7), seed=2)] if name in PAIRS else []
        close(ours, PLAIN[family](weights, theirs.config, ids((B, T)), *target), 1e-9)


def exact_sinusoids(model: Any) -> None:
    """Sets Marian's table of sinusoids in float64; `transformers` rounds it to float32."""
    for part in (model.model.encoder, model.model.decoder):
        n, D = part.embed_positions.weight.shape
        angles = np.arange(n)[:, None] / 10000 ** (np.arange(0, D, 2) / D)
        table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        part.embed_positions.weight.data = torch.from_numpy(table)


@pytest.mark.parametrize("config", ["the released one", "ours"])
@pytest.mark.parametrize("name", ALL)
def test_back_in_transformers_bit_for_bit(name, config, tmp_path):
    theirs, loaded = opened(name, tmp_path / "released")
    save_weights(
        loaded.module,
        tmp_path / "ours",
        config=loaded.config if config == "the released one" else None,
        architecture=loaded.architecture,
        rest=loaded.rest,
    )
    released, written = (
        load_file(tmp_path / each / "model.safetensors") for each in ("released", "ours")
    )
    assert released.keys() == written.keys()
    assert all(torch.equal(released[key], written[key]) for key in released)
    back, said = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    a, b = theirs.state_dict(), back.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    source = {"input_ids": ids((B, T))}
    if name in PAIRS:
        source["decoder_input_ids"] = ids((B, 7), seed=2)
    with torch.inference_mode():
        assert torch.equal(output(back.eval()(**source)), output(theirs(**source)))
    again = load_weights(tmp_path / "ours")
    a, b = loaded.module.state_dict(), again.module.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_loading_needs_no_transformers(tmp_path):
    folders = []
    for name in ("gpt2", "llama llama3", "bert", "t5", "marian"):
        folders.append(tmp_path / name.replace(" ", "-"))
        randomised(ALL[name]()).save_pretrained(folders[-1])
    code = """
import sys
from pathlib import Path
sys.modules["transformers"] = None  # importing it raises ImportError
from etude.interop.pretrained import load_weights, save_weights
for folder in map(Path, sys.argv[1:]):
    loaded = load_weights(folder)
    save_weights(loaded.module, folder / "again", config=loaded.config)
    print(loaded.family.model_type)
assert "sympy" not in sys.modules  # of torch's compiler, which takes seconds to import
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["gpt2", "llama", "bert", "t5", "marian"]


@pytest.mark.parametrize(
    ("name", "scaling"),
    [("llama linear", {"type": "linear", "factor": 2.5}), ("llama", None)],
)
def test_older_spelling_of_rotary_positions(name, scaling, tmp_path):
    _, loaded = opened(name, tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    file.write_text(json.dumps({**config, "rope_theta": theta, "rope_scaling": scaling}))
    again = load_weights(tmp_path)
    with torch.inference_mode():
        assert torch.equal(again.module(ids((B, T))), loaded.module(ids((B, T))))


@pytest.mark.parametrize(
    ("dtype", "device"), [(torch.bfloat16, "cpu"), (torch.float64, "cpu"), (None, "meta")]
)
def test_dtype_and_device_as_asked(dtype, device, tmp_path):
    theirs = randomised(ALL["llama tied, biased"]())
    theirs.save_pretrained(tmp_path)
    module = load_weights(tmp_path, dtype=dtype, device=device).module
    assert {p.dtype for p in module.parameters()} == {dtype or torch.float32}
    assert {p.device.type for p in module.parameters()} == {device}
    if device == "cpu":
        expected = theirs.model.norm.weight.to(dtype)
        assert torch.equal(module.norm.weight, expected)


@pytest.mark.parametrize("model", RELEASED)
def test_our_model_files_are_of_their_family(model):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose(model)
    config = OmegaConf.to_container(config, resolve=True)
    with torch.device("meta"):
        module = instantiate({key: value for key, value in config.items() if key != "model"})
    assert family_for(module).model_type == RELEASED[model]
