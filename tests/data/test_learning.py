from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etude.data import tokenizer_training
from etude.data.tokenizer import BPE
from etude.data.tokenizer_training import LONG_STRETCH, learnable

PLAIN = st.text(alphabet="ab \n茶，", max_size=40)
LONG = st.builds(
    lambda letter, n: letter * n, st.sampled_from(["x", " ", "茶"]), st.integers(1, 60)
)


@given(st.lists(st.one_of(PLAIN, LONG), max_size=8))
def test_only_long_stretches_are_cut_and_only_too_many_left_out(parts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_training, "LONG_STRETCH", 16)
        text = "".join(parts)
        patch.setattr(tokenizer_training, "MAX_LONG_STRETCHES", 10**9)
        assert "".join(learnable([text])) == text
        patch.setattr(tokenizer_training, "MAX_LONG_STRETCHES", 0)
        kept = list(learnable([text]))
        stretches = [text[first:last] for first, last in tokenizer_training._stretches(text)]
        assert "".join(kept) == "".join(s for s in stretches if len(s) < 16)
        if all(len(stretch) < 16 for stretch in stretches):
            assert kept == [text]


def test_ordinary_text_passes_as_it_is() -> None:
    texts = ["word " * 10_000, "", "x" * (LONG_STRETCH - 1), "茶，" * 1000]
    assert list(learnable(texts)) == texts


def test_a_long_stretch_comes_in_pieces_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tokenizer_training, "MAX_LONG_STRETCHES", 3 * LONG_STRETCH + 100)
    texts = ["a " + "x" * 2 * LONG_STRETCH + " b", "y" * 5 * LONG_STRETCH + " c", "z" * 9999]
    kept = list(learnable(texts))
    assert [len(text) for text in kept] == [1, 512, 512, 1, 2, 512, 99, 2]
    assert "".join(kept).replace("x", "").replace("y", "") == "a  b c"
    assert len(caplog.records) == 1
    assert "1,636 characters" in caplog.text


CPU_SECONDS = 20  # ten times what one takes; uncut, byte-pair encoding takes more than 600

ENORMOUS = """
import random, resource
resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))  # the kernel ends what takes longer
from etude.data import tokenizer_training
from etude.data.tokenizer import BPE
from etude.data.unigram import Unigram
from etude.data.wordpiece import WordPiece

tokenizer_training.MAX_LONG_STRETCHES = 1 << 15
words = {{
    "one letter": "a" * 400_000,
    "base64": "".join(random.Random(0).choices("ABCDEFGHabcdefgh0123456789+/", k=400_000)),
    "spaces": " " * 400_000,
}}
recipe = {recipe}
for name, text in words.items():
    print(name, flush=True)
    tokenizer = recipe.train([text])
    ids = tokenizer.encode(text[:50_000])
    assert isinstance(recipe, WordPiece) or tokenizer.decode(ids) == text[:50_000]
print("done", flush=True)
"""


@pytest.mark.parametrize("recipe", ["BPE(300)", "Unigram(300)", "WordPiece(100)"])
def test_one_enormous_word_does_not_hang(recipe: str) -> None:
    """In a process of its own, which ends also where learning would not."""
    code = ENORMOUS.format(recipe=recipe, seconds=CPU_SECONDS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split("\n")[-2]) == (0, "done"), done.stderr


@pytest.mark.parametrize("texts", ["itertools.repeat('a few words')", "words"])
def test_ctrl_c_ends_learning_at_once(texts: str) -> None:
    """While it reads, and while it merges: so many distinct words take the library a minute."""
    code = (
        "import itertools, random, signal;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from etude.data.tokenizer import BPE;"
        "draw = random.Random(0);"
        "words = [''.join(draw.choices('abcdefghij', k=400)) for _ in range(4000)];"
        "print('learning', flush=True);"
        f"BPE(30000).train({texts})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "learning\n"
    time.sleep(1.5)
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert "KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT


def test_what_goes_wrong_with_the_text_is_raised_where_it_is_waited_for() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield "a text"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        BPE(300).train(broken())
