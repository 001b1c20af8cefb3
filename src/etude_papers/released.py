"""Released language models, scored on texts as they are: nothing is trained."""

from __future__ import annotations

import gc
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from etude.console import rich_console, start_live
from etude.errors import Checks, Problem, RequestError
from etude.escaping import figure_label
from etude.papers.claims import Reading
from etude_papers.texts import FileTexts, HubTexts

if TYPE_CHECKING:
    from etude.models.language_model import LanguageModel

log = logging.getLogger("etude")

SECONDS_BETWEEN_LINES = 30.0
Told = Callable[[int], None]


class Windows:
    """Loss and perplexity of running text, in windows of tokens.

    Readings: `loss`, in nats a token; `perplexity`, its exponential, or with `per=word` that of the
    nats a word of the text as it was before `clean`, split at white space. The control is the same
    tokens in a random order.

    Args:
        source: of the texts.
        join: what stands between them where they are parts of one text, as the lines of WikiText
            are; None has the model's end-of-text token after each.
        begin: put that token before all, so that the first token is predicted too.
        window: tokens of a window, of which the first is read alone; None is one more than the
            model's positions, so that it reads as many as it can.
        stride: from the beginning of one window to that of the next; of what an earlier window has
            scored nothing counts again. None is `window` - 1, with which each token is predicted
            once; with `window` itself the first of each window never is, as in the loop that
            Hugging Face documents.
        clean: `wikitext` takes the spaces away that WikiText puts around punctuation.
        per: what the perplexity is per.
    """

    def __init__(
        self,
        *,
        source: HubTexts | FileTexts,
        join: str | None = None,
        begin: bool = False,
        window: int | None = None,
        stride: int | None = None,
        clean: Literal["none", "wikitext"] = "none",
        per: Literal["token", "word"] = "token",
    ) -> None:
        checks = Checks()
        if window is not None:
            checks.that(window > 1, "window", window, "2 tokens or more")
        if stride is not None:
            most = "a positive number, the window's at most"
            checks.that(0 < stride <= (window or stride), "stride", stride, most)
        checks.done()
        self.source, self.join, self.begin = source, join, begin
        self.window, self.stride, self.clean, self.per = window, stride, clean, per

    @cached_property
    def texts(self) -> list[str]:
        """What is scored, read once for all models."""
        found = list(self.source.read())
        return found if self.join is None else [self.join.join(found)]

    def score(
        self, model: LanguageModel, told: Told, shuffled: int | None = None
    ) -> dict[str, float]:
        """The readings.

        Args:
            told: is called with how much is done, in thousandths.
            shuffled: a seed for the order of the tokens; None leaves them as they are.

        Raises:
            RequestError: the texts are shorter than two tokens, or a window is longer than the
                model reads.
        """
        import numpy as np

        from etude.tasks.causal_lm import sliding_score

        longest = model.module.max_length + 1
        window = self.window or longest
        if window > longest:
            raise RequestError(Problem("measure", f"a window of at most {longest}", window))
        ids = self.ids(model, shuffled)
        if len(ids) < 2:
            raise RequestError(Problem("measure", "a text of two tokens or more", len(ids)))
        found = sliding_score(
            model.module,
            np.array(ids),
            window - 1,
            self.stride or window - 1,
            model.module.embedding.num_embeddings,
            lambda done: told(1000 * done // len(ids)),
        )
        if self.per == "word":
            words = sum(len(re.split(r"\s+", text)) for text in self.texts)
            per_word = found["nats"] / words
            found["perplexity"] = math.exp(per_word) if per_word < 700 else math.inf
        return {name: found[name] for name in ("loss", "perplexity")}

    def ids(self, model: LanguageModel, shuffled: int | None) -> list[int]:
        """The tokens of all texts, one after the other."""
        import numpy as np

        end = model.tokenizer.end_of_text
        if end is None and (self.begin or self.join is None):
            hint = "its texts can only be joined"
            raise RequestError(Problem("measure", "a model with an end-of-text token", hint=hint))
        ids: list[int] = []
        for text in self.texts:
            ids += model.tokenizer.encode(CLEAN[self.clean](text))
            if self.join is None:
                ids.append(end)  # type: ignore[arg-type]
        if shuffled is not None:
            ids = [ids[place] for place in np.random.default_rng(shuffled).permutation(len(ids))]
        return [end, *ids] if self.begin else ids  # type: ignore[list-item]

    def short(self, source: FileTexts, longest: int) -> Windows:
        """The same on another text, for a model that reads fewer tokens."""
        made = copy(self)
        made.__dict__.pop("texts", None)
        made.source = source
        made.window = None if self.window is None else min(self.window, longest + 1)
        if self.stride is not None:
            made.stride = min(self.stride, made.window or longest)
        return made


class LastWords:
    """Each text's last word, foretold from what stands before it (LAMBADA, Paperno et al. 2016).

    Readings: `accuracy`, the part of the texts of which every token of the last word, with the
    space before it, is the likeliest one; `perplexity`, the exponential of the mean negative
    log-likelihood of the whole word. Nothing is known of stop words: a frequent word that could go
    on counts as wrong. The control has the tokens before the word in a random order.

    Args:
        source: of the texts.
    """

    def __init__(self, *, source: HubTexts | FileTexts) -> None:
        self.source = source

    @cached_property
    def texts(self) -> list[str]:
        """What is scored, read once for all models."""
        return [text for text in self.source.read() if " " in text.strip()]

    def score(
        self, model: LanguageModel, told: Told, shuffled: int | None = None
    ) -> dict[str, float]:
        """The readings; see `Windows.score`.

        Raises:
            RequestError: there are no texts of two words.
        """
        import numpy as np
        import torch

        from etude.data.loading import evaluation_positions
        from etude.generation.decoding import evaluating

        if not self.texts:
            raise RequestError(Problem("measure", "texts of two words or more"))
        random = np.random.default_rng(shuffled)
        rows = []
        for text in self.texts:
            context, word = self.parts(model, text)
            if shuffled is not None:
                context = [context[place] for place in random.permutation(len(context))]
            start = [] if model.begin_token is None else [model.begin_token]
            rows.append(([*start, *context], word))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        positions = evaluation_positions(model.module.embedding.num_embeddings)
        nats, right, done = 0.0, 0, 0
        with torch.inference_mode(), evaluating(model.module):
            while done < len(rows):
                size = max(1, positions // (len(rows[done][0]) + len(rows[done][1])))
                batch = rows[done : done + size]
                each, hits = _of_last_words(model, batch)
                nats, right, done = nats - each, right + hits, done + len(batch)
                told(1000 * done // len(rows))
        mean = nats / len(rows)
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return {"accuracy": right / len(rows), "perplexity": perplexity}

    def parts(self, model: LanguageModel, text: str) -> tuple[list[int], list[int]]:
        """The tokens before the last word, as many as the model reads, and those of the word.

        The word's are what the whole text has more than what stands before it.
        """
        before = text.rstrip().rpartition(" ")[0]
        whole, context = model.tokenizer.encode(text.rstrip()), model.tokenizer.encode(before)
        word = whole[len(context) :]
        room = model.module.max_length + 1 - len(word) - (model.begin_token is not None)
        return context[-room:], word

    def short(self, source: FileTexts, longest: int) -> LastWords:
        """The same on other texts."""
        return LastWords(source=source)


def _of_last_words(
    model: LanguageModel, rows: list[tuple[list[int], list[int]]]
) -> tuple[float, int]:
    """The summed log-likelihood of the rows' words, and how many are the likeliest throughout.

    Rows are filled up behind, where nothing sees it.
    """
    import torch

    longest = max(len(context) + len(word) for context, word in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (context, word) in zip(tokens, rows, strict=True):
        row[: len(context) + len(word)] = torch.tensor([*context, *word])
    logits = model(tokens[:, :-1])
    nats, right = 0.0, 0
    for said, (context, word) in zip(logits, rows, strict=True):
        mine = said[len(context) - 1 : len(context) - 1 + len(word)].cpu()
        mine = mine.to(torch.promote_types(mine.dtype, torch.float32)).log_softmax(-1)
        target = torch.tensor(word)
        nats += float(mine.gather(1, target[:, None]).double().sum())
        right += bool((mine.argmax(-1) == target).all())
    return nats, right


class Released:
    """Models by the names of their makers, each scored on several texts.

    Readings: `<model>/<text>/<metric>`, such as `gpt2/lambada/accuracy`. The seeds decide the order
    of the control's tokens and nothing else.

    Args:
        models: for each name a folder or a hub id; see `etude.load_pretrained`.
        texts: for each name what is scored, and how.
        revisions: for names of models a branch, a tag or a commit.
        device: where to compute; `auto` takes a GPU if there is one.
        dtype: of the weights; None is the files'.
    """

    def __init__(
        self,
        *,
        models: dict[str, str],
        texts: dict[str, Windows | LastWords],
        revisions: dict[str, str] | None = None,
        device: str = "auto",
        dtype: str | None = None,
    ) -> None:
        checks = Checks()
        checks.that(bool(models), "models", models, "a model or more")
        checks.that(bool(texts), "texts", texts, "a text or more")
        strays = [name for name in revisions or {} if name not in models]
        expected = f"names of models: {', '.join(models)}"
        checks.that(not strays, "revisions", ", ".join(strays), expected)
        checks.done()
        self.models, self.texts, self.revisions = models, texts, revisions or {}
        self.device, self.dtype = device, dtype

    def measure(self, seeds: Sequence[int], figures: Path) -> dict[str, Reading]:
        """The readings, and the figure `released.png`.

        Raises:
            RequestError: a model or a text cannot be had, or a model is no decoder.
        """
        from etude.interop.hub import locate

        for name, source in self.models.items():  # before hours are spent on the first
            locate(source, self.revisions.get(name))
        for text in self.texts.values():
            _ = text.texts
        found: dict[str, Reading] = {}
        for name in self.models:
            model = self.loaded(name)
            for key, text in self.texts.items():
                with counted(f"{name}, {key}") as told:
                    scores = text.score(model, told)
                controls = []
                for seed in seeds:
                    with counted(f"{name}, {key}, shuffled") as told:
                        controls.append(text.score(model, told, seed))
                for metric, value in scores.items():
                    log.info("%s  %s %s = %.4f", name, key, metric, value)
                    reading = Reading([value] * len(seeds), [each[metric] for each in controls])
                    found[f"{name}/{key}/{metric}"] = reading
            del model
            gc.collect()  # the largest fills a small machine alone
        plot(found, list(self.models), figures / "released.png")
        return found

    def loaded(self, name: str) -> LanguageModel:
        """A model by its name here."""
        import torch

        from etude.api import load_pretrained
        from etude.models.language_model import LanguageModel

        auto = "cuda" if torch.cuda.is_available() else "cpu"
        device = auto if self.device == "auto" else self.device
        source, revision = self.models[name], self.revisions.get(name)
        model = load_pretrained(source, revision=revision, device=device, dtype=self.dtype)
        if not isinstance(model, LanguageModel):
            expected = "a model that foretells the next token"
            raise RequestError(Problem("measure.models", expected, source))
        return model

    def short(self, toys: Path) -> Released:
        """The same for a model of a few weights, which are random, on texts of a few lines.

        Args:
            toys: the folder of `etude.papers.toys`, where the model is put too.
        """
        from etude.papers import toys as small

        folder, longest = small.write_model(toys / "model")
        source = FileTexts(path=str(toys / small.LABELLED), rows=40)
        texts = {key: text.short(source, longest) for key, text in self.texts.items()}
        models = dict.fromkeys(self.models, str(folder))
        return Released(models=models, texts=texts, device="cpu")


@contextmanager
def counted(label: str) -> Iterator[Told]:
    """Tells how far something is: a bar on a terminal, a line every half minute anywhere else.

    Gives what is called with the thousandths that are done.
    """
    if sys.stdout.isatty():
        from rich.markup import escape
        from rich.progress import Progress

        bar = Progress(transient=True, console=rich_console())
        start_live(bar)
        try:
            task = bar.add_task(escape(label), total=1000)
            yield lambda done: bar.update(task, completed=done)
        finally:
            bar.stop()
        return
    latest = time.monotonic()

    def line(done: int) -> None:
        nonlocal latest
        if time.monotonic() - latest >= SECONDS_BETWEEN_LINES:
            latest = time.monotonic()
            log.info("%s: %d%%", label, done // 10)

    yield line


def plot(readings: dict[str, Reading], models: Sequence[str], path: Path) -> None:
    """A panel for each text and metric: the models in their order, and each one's control."""
    from statistics import fmean

    from etude.analysis.curves import COLOURS, dress, new_figure

    panels = list(dict.fromkeys(key.partition("/")[2] for key in readings))
    figure = new_figure(3.2 * len(panels), 3.2)
    many: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(many, panels, strict=True):
        found = [readings[f"{model}/{panel}"] for model in models]
        places = range(len(models))
        axes.plot(places, [fmean(each.values) for each in found], "o-", color=COLOURS[0])
        controls = [fmean(each.controls) for each in found]
        axes.plot(places, controls, "x:", color=COLOURS[1], label="shuffled")
        axes.set_title(figure_label(panel), fontsize=9)
        axes.set_xticks(
            places, labels=[figure_label(model) for model in models], rotation=30, fontsize=8
        )
        if not panel.endswith("accuracy"):
            axes.set_yscale("log")
        dress(axes)
    many[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def without_wikitext_spaces(text: str) -> str:
    """The text about as it stood before WikiText was cut into words: without spaces before
    punctuation, inside brackets and quotes, and around `@-@`, `@,@` and `@.@`.

    After the detokenizer that Megatron-LM and the LM Evaluation Harness use; theirs also makes a
    1 of each lone N.
    """
    text = text.replace("s '", "s'")
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)
    text = re.sub(r" ([:;.!?,])(?= )", r"\1", text)
    for first, last in ("()", "[]", "{}", '""', "''"):
        inside = rf"{re.escape(first)}\s*([^{re.escape(last)}]*?)\s*{re.escape(last)}"
        text = re.sub(inside, rf"{first}\1{last}", text)
    for signs in (4, 3, 2):  # of headings
        text = text.replace(" ".join("=" * signs), "=" * signs)
    text = text.replace(" ° ", "°").replace(" 's", "'s")
    return text.replace(" \n", "\n").replace("\n ", "\n")


CLEAN: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "wikitext": without_wikitext_spaces,
}
