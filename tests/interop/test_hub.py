"""Weights from a Hub: only the needed files, fixed to a commit, also offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import folders
import pytest
import zoo
from fake_hub import Models, commit_of
from ggufs import write_gguf

CODE = """
import sys
from etude.errors import EtudeError
from etude.interop import weights_location
from etude.interop.released_model import load_released
for asked in sys.argv[1:]:
    name, _, revision = asked.partition("@")
    try:
        found = load_released(name, revision=revision or None)
        rest = sorted(path.name for path in (found.folder or found.place.path.parent).iterdir())
        weight = float(next(found.loaded.module.parameters()).sum())
        print(found.place.repository, found.place.commit, f"{weight:.6f}", *rest, flush=True)
    except EtudeError as error:
        print("REFUSED", str(error).replace(chr(10), " | "), flush=True)
"""

Ask = Callable[..., list[str]]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """`ask(url, source, ..., home="home")` returns a line per source, from a separate process."""

    def call(url: str, *sources: str, home: str = "home", **more: str) -> list[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / home), **more}
        done = subprocess.run(
            [sys.executable, "-c", CODE, *sources],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        secret = more.get("HF_TOKEN")
        assert secret is None or secret not in done.stdout + done.stderr
        return done.stdout.strip().splitlines()

    return call


def test_what_is_needed_is_downloaded_once_and_found_again(ask: Ask, tmp_path: Path) -> None:
    repository = folders.write_gpt2(tmp_path / "hub" / "owner" / "name")
    (repository / "pytorch_model.bin").write_bytes(b"a second copy")
    (repository / "README.md").write_text("words")
    (repository / "onnx").mkdir()
    (repository / "onnx" / "model.safetensors").write_bytes(b"a third")
    commit = commit_of(repository)
    with Models(tmp_path / "hub") as hub:
        first, again, fixed = ask(hub.url, "owner/name", "owner/name@main", f"owner/name@{commit}")
        assert first == again == fixed
        assert first.startswith(f"owner/name {commit} ")
        assert first.endswith("config.json generation_config.json model.safetensors tokenizer.json")
        assert sum("GET" in line and "model.safetensors" in line for line in hub.asked) == 1
        assert not any(word in line for line in hub.asked for word in ("bin", "README", "onnx"))
        url = hub.url
    assert ask(url, "owner/name") == [first]  # the hub is stopped: the cache is used
    assert ask(url, "owner/name", HF_HUB_OFFLINE="1") == [first]

    (repository / "config.json").write_text((repository / "config.json").read_text() + "\n")
    with Models(tmp_path / "hub") as hub:
        newer, old = ask(hub.url, "owner/name", f"owner/name@{commit}")
    assert newer.split()[1] == commit_of(repository) != commit
    assert old == first


@pytest.mark.slow
def test_offline_it_says_what_to_download_and_where_to_put_it(ask: Ask, tmp_path: Path) -> None:
    with Models(tmp_path) as hub:
        url = hub.url
    (said,) = ask(url, "owner/name", HF_TOKEN="hf_abcdefghijklmnop")
    assert said.startswith(
        "REFUSED source = 'owner/name': expected a local path, or access to the Hugging Face Hub"
    )
    files = "config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert f"`hf download owner/name {files} --local-dir name`" in said
    assert "copy the folder here and use its path" in said


@pytest.mark.slow
def test_mistakes_are_told(ask: Ask, tmp_path: Path) -> None:
    repository = folders.write_gpt2(tmp_path / "hub" / "owner" / "name")
    shutil.copytree(repository, tmp_path / "hub" / "owner" / "secret")
    (tmp_path / "hub" / "owner" / "text").mkdir()
    (tmp_path / "hub" / "owner" / "text" / "a.txt").write_text("no weights")
    gguf = tmp_path / "hub" / "owner" / "quantised"
    gguf.mkdir()
    write_gguf(gguf / "m.gguf", zoo.randomised(zoo.llama(hidden_size=64)))
    with Models(tmp_path / "hub") as hub:
        hub.gated.add("owner/secret")
        misspelt, revision, gated, none, which, other = ask(
            hub.url, "owner/nam", "owner/name@v9", "owner/secret", "owner/text",
            "owner/quantised", "owner/quantised/n.gguf",
        )  # fmt: skip
        (found,) = ask(hub.url, "owner/quantised/m.gguf")
        url = hub.url
    assert "'owner/nam': expected a local path, or a model on the Hugging Face Hub" in misspelt
    assert "revision = 'v9': expected a branch, tag or commit of owner/name" in revision
    assert "'owner/secret': expected a model that you have access to (the model is gated" in gated
    assert "expected a model with config.json and model.safetensors or pytorch_model.bin" in none
    assert "to use one of its GGUF files, write owner/quantised/FILE; files: m.gguf" in which
    assert "'n.gguf': expected a file of the repository owner/quantised (available" in other
    assert "(available .gguf files: m.gguf)" in other
    assert found.endswith(" m.gguf")
    assert ask(url, "owner/quantised/m.gguf") == [found]


@pytest.mark.slow
def test_shards_are_those_of_the_index(ask: Ask, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "owner" / "large"
    tokenizer = folders.bpe()
    model = zoo.randomised(zoo.gpt2(vocab_size=tokenizer.vocab_size))
    model.save_pretrained(repository, max_shard_size="20KB")
    tokenizer.save(repository / "tokenizer.json")
    (repository / "model-00009-of-00009.safetensors").write_bytes(b"of another time")
    index = json.loads((repository / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 1
    with Models(tmp_path / "hub") as hub:
        (found,) = ask(hub.url, "owner/large")
        url = hub.url
    assert [word for word in found.split() if word.startswith("model-")] == shards
    assert ask(url, "owner/large") == [found]
    next((tmp_path / "home").rglob(shards[1])).unlink()  # like an interrupted download
    assert "expected a local path, or access to the Hugging Face Hub" in ask(url, "owner/large")[0]
