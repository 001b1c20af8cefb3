"""Methods of models that list, capture and replace their activations."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from etude.arguments import check_arguments
from etude.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd

    from etude.activations.capture import Capture, Index


class Inspectable:
    """Mixin of models and of their wrappers: lists, captures and replaces activations."""

    @property
    def inspected(self) -> nn.Module:
        """The module whose sites are listed: the model itself, or the module of a wrapper."""
        assert isinstance(self, nn.Module)
        return self

    def sites(self) -> pd.DataFrame:
        """Returns a table of the model's sites, in the order in which they are computed.

        Columns: `site` (the name), `letters` (one for each dimension; see `etude.nn.sites`) and
        `dtype`.
        """
        import pandas as pd

        from etude.activations.names import list_sites

        rows = [(each.name, each.letters, each.dtype) for each in list_sites(self.inspected)]
        return pd.DataFrame(rows, columns=["site", "letters", "dtype"])

    @check_arguments(RequestError)
    def capture(
        self,
        *names: str,
        at: Index | None = None,
        heads: Index | None = None,
        rows: Index | None = None,
        device: str | torch.device | None = None,
        until: str | None = None,
    ) -> Capture:
        """Returns a context manager that captures the values at sites.

        Example:
            with model.capture("blocks.*.attention.pattern", at=-1) as seen:
                model(ids)
            seen["blocks.0.attention.pattern"]

        Args:
            names, at, heads, rows, device, until: see `etude.activations.capture.Capture`.

        Raises:
            RequestError: there is no such site, or a site lacks a sliced dimension.
        """
        from etude.activations.capture import Capture

        options: dict[str, Any] = {"at": at, "heads": heads, "rows": rows, "device": device}
        return Capture(self.inspected, *names, until=until, **options)

    @check_arguments(RequestError)
    def replace(self, changes: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Returns a context manager in which the model computes with other values at some sites.

        Example:
            with model.replace({"blocks.3.attention.mixed": heads([1], zero)}):
                model(ids)

        Args:
            changes: see `etude.activations.edits.replace`.

        Raises:
            RequestError: there is no such site.
        """
        from etude.activations.edits import replace

        return replace(self.inspected, changes)

    def _repr_html_(self) -> str:
        from etude.activations.model_tree import model_html

        name = None if self.inspected is self else type(self).__name__
        return model_html(self.inspected, name)


class InspectableWrapper(Inspectable):
    """Mixin of classes that combine a module, their attribute `module`, with a tokenizer."""

    module: Any

    @property
    def inspected(self) -> nn.Module:
        module: nn.Module = self.module
        return module

    def __repr__(self) -> str:
        from etude.activations.model_tree import model_line

        return f"{type(self).__name__}({model_line(self.inspected)})"


def first_row(output: Any) -> Any:
    """Returns the first row of a model's output; None if `until` skipped the rest of the pass."""
    return None if output is None else output[0]
