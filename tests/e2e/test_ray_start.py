"""How a Ray of our own comes up and goes, whatever fails meanwhile: nothing of it stays behind."""

from __future__ import annotations

import importlib.util
import os

import pytest
from tests.e2e.processes import descendants

from headway.serve.ray_engine.runtime import local_ray

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the `ray` extra"),
    # Ray's own warnings are Ray's to mend.
    pytest.mark.filterwarnings(r"ignore::Warning:ray\..*"),
]


def test_a_start_that_fails_half_way_is_tried_again_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.node import Node

    before, half = descendants(os.getpid()), set[int]()
    finish = Node._record_stats

    def fail_once(node: Node) -> None:
        if not half:
            half.update(descendants(os.getpid()) - before)
            raise RuntimeError("the node timed out during startup")
        finish(node)

    monkeypatch.setattr(Node, "_record_stats", fail_once)
    with local_ray():
        running = descendants(os.getpid())
        assert half, "the first start got so far that it had started processes"
        assert not half & running
        assert running > before
    assert descendants(os.getpid()) <= before
