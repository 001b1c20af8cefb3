"""The examples in docstrings give what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import etude
import etude_papers


def test_examples() -> None:
    run = 0
    for package in (etude, etude_papers):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
            assert results.failed == 0, info.name
            run += results.attempted
    assert run >= 10
