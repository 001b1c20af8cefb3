"""File formats of weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo import bert, gpt2, llama, randomised

import etude.interop.pretrained as pretrained
import etude.interop.tensors as tensors
from etude.errors import RequestError
from etude.interop.pretrained import load_weights, save_weights
from etude.interop.tensors import open_tensors


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    randomised(llama()).save_pretrained(tmp_path)
    return tmp_path


def test_one_file_with_its_config_beside(folder):
    assert same(load_weights(folder / "model.safetensors").module, load_weights(folder).module)


def test_shards(folder, tmp_path_factory, monkeypatch):
    whole = load_weights(folder)
    theirs = tmp_path_factory.mktemp("theirs")
    randomised(llama()).save_pretrained(theirs, max_shard_size="20KB")
    assert len(list(theirs.glob("*.safetensors"))) > 2
    assert same(load_weights(theirs).module, whole.module)

    ours = tmp_path_factory.mktemp("ours")
    monkeypatch.setattr(pretrained, "SHARD", 20_000)
    save_weights(whole.module, ours, config=whole.config)
    files = sorted(ours.glob("*.safetensors"))
    assert len(files) > 2
    assert all(file.stat().st_size < 25_000 for file in files)
    assert not [file for file in ours.iterdir() if file.name.startswith(".")]
    back = type(randomised(llama())).from_pretrained(ours)
    assert torch.equal(back.model.norm.weight, whole.module.norm.weight)
    assert same(load_weights(ours).module, whole.module)

    files[1].unlink()
    with pytest.raises(RequestError, match="no such file"):
        load_weights(ours)


def test_an_index_that_leads_elsewhere(folder):
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match="names of files in the same folder"):
        load_weights(folder)


@pytest.mark.parametrize("old", [False, True])
def test_torch_files(old, folder):
    expected = load_weights(folder).module
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    name = folder / "pytorch_model.bin"
    torch.save(weights, name, _use_new_zipfile_serialization=not old)
    assert same(load_weights(folder).module, expected)
    assert same(load_weights(name).module, expected)


def test_files_are_mapped_anew_after_a_while(folder, monkeypatch):
    expected = load_file(folder / "model.safetensors")
    monkeypatch.setattr(tensors, "MAPPED", 1000)
    with open_tensors(folder) as found:
        assert set(found.names()) == expected.keys()
        for name in found.names():
            assert found.shape(name) == tuple(expected[name].shape)
            assert torch.equal(found.read(name), expected[name])


def test_names_without_prefix_and_with_buffers(tmp_path):
    """Covers the names in the file of `gpt2` on the Hub."""
    model = randomised(gpt2())
    model.save_pretrained(tmp_path)
    expected = load_weights(tmp_path).module
    weights = load_file(tmp_path / "model.safetensors")
    weights = {key.removeprefix("transformer."): x for key, x in weights.items()}
    weights |= {f"h.{i}.attn.bias": torch.ones(1, 1, 8, 8) for i in range(2)}
    save_file(weights, tmp_path / "model.safetensors")
    assert same(load_weights(tmp_path).module, expected)


def test_old_names_of_norms_and_heads_left_out(tmp_path):
    """Covers the names in the file of `bert-base-uncased` on the Hub."""
    model = randomised(bert())
    model.save_pretrained(tmp_path)
    expected = load_weights(tmp_path).module
    weights = load_file(tmp_path / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        weights = {key.replace(new, name): x for key, x in weights.items()}
    weights["cls.seq_relationship.bias"] = torch.randn(2)
    weights["bert.pooler.dense.bias"] = torch.randn(24)
    save_file(weights, tmp_path / "model.safetensors")
    loaded = load_weights(tmp_path)
    assert same(loaded.module, expected)
    assert set(loaded.rest) == {"cls.seq_relationship.bias", "bert.pooler.dense.bias"}
    body = load_weights(tmp_path, architecture="BertModel")
    assert body.module.head is None
    assert same(body.module.blocks, expected.blocks)


def test_whole_numbers_are_no_weights(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(24, dtype=torch.int8)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        RequestError, match=r"model\.norm\.weight = 'int8': expected one of the dtypes"
    ):
        load_weights(folder)


def test_the_module_does_not_depend_on_the_file(folder):
    module = load_weights(folder).module
    before = {key: x.clone() for key, x in module.state_dict().items()}
    file = folder / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:  # in place, as no rename would
        opened.write(b"\0" * size)
    assert all(torch.equal(x, before[key]) for key, x in module.state_dict().items())


PEAK = """
import sys
from pathlib import Path
from etude.interop.pretrained import load_weights
def status(key):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if key in x)
    return int(line.split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = status("VmRSS")
module = load_weights(Path(sys.argv[1])).module
print((status("VmHWM") - before) / sum(p.nbytes for p in module.parameters()))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_no_second_copy_in_memory(form, tmp_path):
    """Loads about 300 MB, much of it in projections that Étude concatenates."""
    size = {"hidden_size": 768, "num_hidden_layers": 10, "intermediate_size": 2048}
    llama(**size, num_key_value_heads=4).save_pretrained(tmp_path)
    if form == "torch":
        file = tmp_path / "model.safetensors"
        torch.save(load_file(file), tmp_path / "pytorch_model.bin")
        file.unlink()
    command = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.2
