"""One server for all tests of a file, sound before and after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.e2e.faults.served import assert_sound, make_plan, serving

from headway.serve.run import LiveServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("orders")
    with serving(make_plan(folder)) as server:
        yield server


@pytest.fixture(autouse=True)
def sound_before_and_after(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test begins and ends with all replicas working at the same time, and every request ended once."""
    server = request.getfixturevalue("server") if "server" in request.fixturenames else None
    if server is not None:
        assert_sound(server)
    yield
    if server is not None:
        assert_sound(server)
