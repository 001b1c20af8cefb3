"""Scores of released language models on texts, without training."""

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
ReportProgress = Callable[[int], None]


class Windows:
    """Loss and perplexity of a model on continuous text, in windows of tokens.

    Measured values: `loss`, in nats per token; `perplexity`, the exponential of the loss, or with
    `per=word` the exponential of the nats per word, where words are separated by white space in the
    text before `clean`. The negative control, a case in which the claim must not hold, has the same
    tokens in a random order.

    Args:
        source: source of the texts.
        join: separator of the texts if they are parts of one text, such as the lines of WikiText;
            None appends the model's end-of-text token to each text.
        begin: whether to prepend the end-of-text token, so that the first token is predicted too.
        window: tokens per window, of which the first is only an input; None is the model's maximum
            length plus one.
        stride: distance in tokens between the starts of windows; tokens that an earlier window
            scored are not counted again. None is `window` - 1, with which each token is predicted
            once. With a stride of `window`, the first token of each window is never predicted, as
            in the loop that the documentation of Hugging Face shows.
        clean: `wikitext` removes the spaces that WikiText adds around punctuation; `none` changes
            nothing.
        per: unit of the perplexity.
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
            checks.that(window > 1, "window", window, "at least 2 tokens")
        if stride is not None:
            expected = "a positive number, at most `window`"
            checks.that(0 < stride <= (window or stride), "stride", stride, expected)
        checks.done()
        self.source, self.join, self.begin = source, join, begin
        self.window, self.stride, self.clean, self.per = window, stride, clean, per

    @cached_property
    def texts(self) -> list[str]:
        """The texts to score; read only once."""
        texts = list(self.source.read())
        return texts if self.join is None else [self.join.join(texts)]

    def score(
        self, model: LanguageModel, report: ReportProgress, shuffled: int | None = None
    ) -> dict[str, float]:
        """Returns a dict with the `loss` and the `perplexity` of a model on the texts.

        Args:
            model: the model.
            report: function that is called with the progress, from 0 to 1000.
            shuffled: seed of a random order of the tokens; None retains their order.

        Raises:
            RequestError: the texts have fewer than two tokens, or a window is longer than the
                model's maximum.
        """
        import numpy as np

        from etude.tasks.causal_lm import sliding_score

        longest = model.module.max_length + 1
        window = self.window or longest
        if window > longest:
            expected = f"a window of at most {longest} tokens"
            raise RequestError(Problem("measure: window", expected, window))
        ids = self.ids(model, shuffled)
        if len(ids) < 2:
            hint = f"the number of tokens is {len(ids)}"
            raise RequestError(Problem("measure", "a text of at least two tokens", hint=hint))
        scores = sliding_score(
            model.module,
            np.array(ids),
            window - 1,
            self.stride or window - 1,
            model.module.embedding.num_embeddings,
            lambda done: report(1000 * done // len(ids)),
        )
        if self.per == "word":
            words = sum(len(re.split(r"\s+", text)) for text in self.texts)
            per_word = scores["nats"] / words
            scores["perplexity"] = math.exp(per_word) if per_word < 700 else math.inf
        return {name: scores[name] for name in ("loss", "perplexity")}

    def ids(self, model: LanguageModel, shuffled: int | None) -> list[int]:
        """Returns the token ids of all texts, concatenated.

        Args:
            shuffled: seed of a random order of the tokens; None retains their order.
        """
        import numpy as np

        end = model.tokenizer.end_of_text
        if end is None and (self.begin or self.join is None):
            hint = "or set `join` to a text and `begin` to false"
            expected = "a model whose tokenizer has an end-of-text token"
            raise RequestError(Problem("measure", expected, hint=hint))
        ids: list[int] = []
        for text in self.texts:
            ids += model.tokenizer.encode(CLEAN[self.clean](text))
            if self.join is None:
                ids.append(end)  # type: ignore[arg-type]
        if shuffled is not None:
            ids = [ids[index] for index in np.random.default_rng(shuffled).permutation(len(ids))]
        return [end, *ids] if self.begin else ids  # type: ignore[list-item]

    def short(self, source: FileTexts, longest: int) -> Windows:
        """Returns a copy of this measurement for a smoke test with a small model.

        Args:
            source: source of the text to use instead.
            longest: maximum length of the model in tokens; longer windows are shortened.
        """
        short = copy(self)
        short.__dict__.pop("texts", None)
        short.source = source
        short.window = None if self.window is None else min(self.window, longest + 1)
        if self.stride is not None:
            short.stride = min(self.stride, short.window or longest)
        return short


class LastWords:
    """Prediction of the last word of each text from the words before it (LAMBADA, Paperno et al.
    2016).

    Measured values: `accuracy`, the fraction of texts for which every token of the last word,
    including the space before the word, is the most probable token; `perplexity`, the exponential
    of the mean negative log-likelihood of the whole word. There is no stop-word filter: if the most
    probable word is a frequent word that other words could follow, it counts as wrong. In the
    negative control, a case in which the claim must not hold, the tokens before the last word are
    in a random order.

    Args:
        source: source of the texts.
    """

    def __init__(self, *, source: HubTexts | FileTexts) -> None:
        self.source = source

    @cached_property
    def texts(self) -> list[str]:
        """The texts of at least two words, of which the last is predicted; read only once."""
        return [text for text in self.source.read() if " " in text.strip()]

    def score(
        self, model: LanguageModel, report: ReportProgress, shuffled: int | None = None
    ) -> dict[str, float]:
        """Returns a dict with the `accuracy` and the `perplexity` of a model on the last words.

        See `Windows.score` for the arguments.

        Raises:
            RequestError: no text has two words.
        """
        import numpy as np
        import torch

        from etude.data.loading import evaluation_positions
        from etude.generation.model_modes import evaluation_mode

        if not self.texts:
            raise RequestError(Problem("measure", "at least one text of at least two words"))
        random = np.random.default_rng(shuffled)
        rows = []
        for text in self.texts:
            context, word = self.parts(model, text)
            if shuffled is not None:
                context = [context[index] for index in random.permutation(len(context))]
            start = [] if model.begin_token is None else [model.begin_token]
            rows.append(([*start, *context], word))
        rows.sort(key=lambda row: len(row[0]) + len(row[1]))
        positions = evaluation_positions(model.module.embedding.num_embeddings)
        nats, correct, scored = 0.0, 0, 0
        with torch.inference_mode(), evaluation_mode(model.module):
            while scored < len(rows):
                size = max(1, positions // (len(rows[scored][0]) + len(rows[scored][1])))
                batch = rows[scored : scored + size]
                each, hits = _score_last_words(model, batch)
                nats, correct, scored = nats - each, correct + hits, scored + len(batch)
                report(1000 * scored // len(rows))
        mean = nats / len(rows)
        perplexity = math.exp(mean) if mean < 700 else math.inf
        return {"accuracy": correct / len(rows), "perplexity": perplexity}

    def parts(self, model: LanguageModel, text: str) -> tuple[list[int], list[int]]:
        """Returns the token ids before the last word of a text, and those of the last word.

        If the text exceeds the model's maximum length, its first tokens are omitted. To find the
        tokens of the last word, the text before the last word is encoded separately. If it has n
        tokens, the last word consists of the tokens of the whole text after the first n.
        """
        preceding = text.rstrip().rpartition(" ")[0]
        whole, context = model.tokenizer.encode(text.rstrip()), model.tokenizer.encode(preceding)
        word = whole[len(context) :]
        capacity = model.module.max_length + 1 - len(word) - (model.begin_token is not None)
        return context[-capacity:], word

    def short(self, source: FileTexts, longest: int) -> LastWords:
        """Returns a copy of this measurement with the texts of `source`, for a smoke test.

        `longest` is ignored.
        """
        return LastWords(source=source)


def _score_last_words(
    model: LanguageModel, rows: list[tuple[list[int], list[int]]]
) -> tuple[float, int]:
    """Returns the summed log-likelihood of the last words, in nats, and the number of correct
    words.

    A word is correct if each of its tokens is the most probable token. Texts are padded on the
    right. Causal attention does not read this padding.

    Args:
        model: the model.
        rows: for each text, the tokens before the last word and the tokens of the last word.
    """
    import torch

    longest = max(len(context) + len(word) for context, word in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (context, word) in zip(tokens, rows, strict=True):
        row[: len(context) + len(word)] = torch.tensor([*context, *word])
    logits = model(tokens[:, :-1])
    nats, correct = 0.0, 0
    for row_logits, (context, word) in zip(logits, rows, strict=True):
        log_probabilities = row_logits[len(context) - 1 : len(context) - 1 + len(word)].cpu()
        log_probabilities = log_probabilities.to(
            torch.promote_types(log_probabilities.dtype, torch.float32)
        ).log_softmax(-1)
        target = torch.tensor(word)
        nats += float(log_probabilities.gather(1, target[:, None]).double().sum())
        correct += bool((log_probabilities.argmax(-1) == target).all())
    return nats, correct


class Released:
    """Measurement of released models, each on several texts.

    Measured values: `<model>/<text>/<metric>`, such as `gpt2/lambada/accuracy`. The seeds only
    determine the order of the tokens in the negative control, a case in which the claim must not
    hold.

    Args:
        models: maps a name of your choice to the folder or Hugging Face Hub id of a model; see
            `etude.load_pretrained`.
        texts: maps a name of your choice to a measurement on a text (`Windows` or `LastWords`).
        revisions: maps a name in `models` to a branch, tag or commit on the Hugging Face Hub.
        device: device of the models; `auto` is a GPU if there is one, otherwise the CPU.
        dtype: data type of the weights; None is that of the files.
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
        checks.that(bool(models), "models", models, "at least one model")
        checks.that(bool(texts), "texts", texts, "at least one text")
        unknown = [name for name in revisions or {} if name not in models]
        expected = f"names in measure.models: {', '.join(models)}"
        checks.that(not unknown, "revisions", ", ".join(unknown), expected)
        checks.done()
        self.models, self.texts, self.revisions = models, texts, revisions or {}
        self.device, self.dtype = device, dtype

    def measure(self, seeds: Sequence[int], figures: Path) -> dict[str, Reading]:
        """Returns the measured values by `<model>/<text>/<metric>`, and draws `released.png`.

        Args:
            seeds: seeds of the negative control.
            figures: existing folder for the figure.

        Raises:
            RequestError: a model or a text is not available, or a model is not a decoder.
        """
        from etude.interop.weights_location import locate_weights

        for name, source in self.models.items():  # report missing models before hours of scoring
            locate_weights(source, self.revisions.get(name))
        for text in self.texts.values():
            _ = text.texts
        readings: dict[str, Reading] = {}
        for name in self.models:
            model = self.load_model(name)
            for key, text in self.texts.items():
                with show_progress(f"{name}, {key}") as report:
                    scores = text.score(model, report)
                controls = []
                for seed in seeds:
                    with show_progress(f"{name}, {key}, shuffled") as report:
                        controls.append(text.score(model, report, seed))
                for metric, value in scores.items():
                    log.info("%s  %s %s = %.4f", name, key, metric, value)
                    reading = Reading([value] * len(seeds), [each[metric] for each in controls])
                    readings[f"{name}/{key}/{metric}"] = reading
            del model
            gc.collect()  # the largest model alone may fill the memory
        plot(readings, list(self.models), figures / "released.png")
        return readings

    def load_model(self, name: str) -> LanguageModel:
        """Loads the model whose name in the argument `models` of the class is `name`."""
        import torch

        from etude.api import load_pretrained
        from etude.models.language_model import LanguageModel

        auto = "cuda" if torch.cuda.is_available() else "cpu"
        device = auto if self.device == "auto" else self.device
        source, revision = self.models[name], self.revisions.get(name)
        model = load_pretrained(source, revision=revision, device=device, dtype=self.dtype)
        if not isinstance(model, LanguageModel):
            expected = "a causal language model"
            raise RequestError(Problem("measure.models", expected, source))
        return model

    def short(self, toys: Path) -> Released:
        """Returns this measurement for a smoke test: a tiny model with random weights, on texts of
        a few lines.

        Args:
            toys: folder with the files of `etude.papers.toy_data`; the model is saved there, too.
        """
        from etude.papers import toy_data as small

        folder, longest = small.save_model(toys / "model")
        source = FileTexts(path=str(toys / small.LABELLED), rows=40)
        texts = {key: text.short(source, longest) for key, text in self.texts.items()}
        models = dict.fromkeys(self.models, str(folder))
        return Released(models=models, texts=texts, device="cpu")


@contextmanager
def show_progress(label: str) -> Iterator[ReportProgress]:
    """Context manager that shows progress: a bar on a terminal, otherwise a log line every half
    minute.

    Yields a function, which the caller calls with the progress, from 0 to 1000.
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
    """Draws one panel for each text and metric, with two points for each model.

    The points are the measured value and that of the negative control, a case in which the claim
    must not hold.

    Args:
        readings: measured values by `<model>/<text>/<metric>`.
        models: names of the models.
        path: path of the PNG file.
    """
    from statistics import fmean

    from etude.analysis.curves import COLOURS, new_figure, style_axes

    panels = list(dict.fromkeys(key.partition("/")[2] for key in readings))
    figure = new_figure(3.2 * len(panels), 3.2)
    all_axes: Any = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(all_axes, panels, strict=True):
        plotted = [readings[f"{model}/{panel}"] for model in models]
        positions = range(len(models))
        axes.plot(positions, [fmean(each.values) for each in plotted], "o-", color=COLOURS[0])
        controls = [fmean(each.controls) for each in plotted]
        axes.plot(positions, controls, "x:", color=COLOURS[1], label="shuffled")
        axes.set_title(figure_label(panel), fontsize=9)
        axes.set_xticks(
            positions, labels=[figure_label(model) for model in models], rotation=30, fontsize=8
        )
        if not panel.endswith("accuracy"):
            axes.set_yscale("log")
        style_axes(axes)
    all_axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def without_wikitext_spaces(text: str) -> str:
    """Returns the text approximately as it was before WikiText was split into words: removes spaces
    before punctuation, inside brackets and quotes, and around `@-@`, `@,@` and `@.@`.

    Based on the detokenizer of Megatron-LM and the LM Evaluation Harness, which also replaces each
    single N by 1.
    """
    text = text.replace("s '", "s'")
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)
    text = re.sub(r" ([:;.!?,])(?= )", r"\1", text)
    for first, last in ("()", "[]", "{}", '""', "''"):
        pattern = rf"{re.escape(first)}\s*([^{re.escape(last)}]*?)\s*{re.escape(last)}"
        text = re.sub(pattern, rf"{first}\1{last}", text)
    for signs in (4, 3, 2):  # headings
        text = text.replace(" ".join("=" * signs), "=" * signs)
    text = text.replace(" ° ", "°").replace(" 's", "'s")
    return text.replace(" \n", "\n").replace("\n ", "\n")


CLEAN: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "wikitext": without_wikitext_spaces,
}
