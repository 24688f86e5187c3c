"""Fixtures that every folder of tests shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cnet.kernels import _dispatch


@pytest.fixture(params=_dispatch.isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every instruction set of this machine, then go back to the one that was in use."""
    before = _dispatch.isa()
    _dispatch.set_isa(request.param)
    yield request.param
    _dispatch.set_isa(before)
