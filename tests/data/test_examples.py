from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["", ".dataset", ".idx", ".loader", ".mnist_digits"])
def test_examples_run_as_shown(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CNET_DATA_DIR", raising=False)
    outcome = doctest.testmod(importlib.import_module(f"cnet.data{module}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
