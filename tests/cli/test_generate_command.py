"""`etude generate` prints the prompt as typed and the generated text, whole or streamed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from etude import cli
from etude.cli import generate
from etude.data.tokenizer import Char
from etude.models.language_model import LanguageModel


class Counts(torch.nn.Module):
    """A model that generates the ids 0, 1, 2, ... for any input."""

    window = 1000

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.vocab_size = vocab_size

    def new_cache(self, batch: int, length: int) -> Any:
        self.turn = -1
        return type("Cache", (), {"length": 0})()

    def forward(self, tokens: torch.Tensor, cache: Any, **_: Any) -> torch.Tensor:
        self.turn += 1
        following = torch.full((len(tokens), 1), self.turn)
        return torch.nn.functional.one_hot(following, self.vocab_size).float()


@pytest.fixture(autouse=True)
def a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Char().train(["abcé🙂"])
    model = LanguageModel(Counts(tokenizer.vocab_size), tokenizer)  # type: ignore[arg-type]
    monkeypatch.setattr(generate, "_load_model", lambda asked: model)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.run(["generate", "RUN", "--greedy", "--max-new-tokens", "5", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("prompt", ["ab", "Zürich 🤖", "", "  a\u2028b "])
@pytest.mark.parametrize("stop", [[], ["--stop", "cé"]])
def test_streamed_or_not_the_same_is_printed(
    capsys: pytest.CaptureFixture[str], prompt: str, stop: list[str]
) -> None:
    """The vocabulary contains neither `Z` nor the robot."""
    whole = shown(capsys, "--prompt", prompt, *stop)
    assert whole == prompt + ("ab" if stop else "abcé🙂") + "\n"
    assert shown(capsys, "--prompt", prompt, "--stream", *stop) == whole


def test_prompts_of_a_file_end_at_newlines_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("a\u2028b\x0c\r\n\u0085c".encode())
    rule = "-" * 72
    expected = f"a\u2028b\x0cabcé🙂\n{rule}\n\u0085cabcé🙂\n"
    assert shown(capsys, "--prompt-file", str(file)) == expected


@pytest.mark.parametrize("option", ["prompt", "stop", "forbid"])
def test_bytes_that_are_no_text_are_refused(
    capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert cli.run(["generate", "RUN", f"--{option}", "caf\udce9"]) == 2
    assert f"--{option} = " in capsys.readouterr().err
