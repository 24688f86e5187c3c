"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from cnet.kernels import _dispatch


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the source tree: a child process would import the sources there in place of the installed package."""
    before = os.getcwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(params=_dispatch.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every instruction set of this machine, then go back to the one that was in use."""
    before = _dispatch.isa()
    _dispatch.set_isa(request.param)
    yield request.param
    _dispatch.set_isa(before)
