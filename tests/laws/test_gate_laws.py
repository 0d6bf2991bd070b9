"""Law of the gate: what it answers without asking the admission policy is what the policy would have answered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.test_admission_laws import make_plan
from tests.laws.test_live_laws import SHAPES

from headway.policy.admission import Load, in_time
from headway.serve.gate import bearable
from headway.sim.promise import admission_terms


@pytest.mark.parametrize("pool", [None, 2], ids=["own cores", "pool"])
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_request_is_in_time_wherever_the_bearable_items_are(pool: int | None, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from(sorted(SHAPES)))
    plan = make_plan(shape, 2, data.draw(st.sampled_from([1, 4, 8])), 1.0, pool)
    terms = admission_terms(plan)
    assert terms is not None
    replicas = [data.draw(st.integers(0, 4)) for _ in terms.head_s]
    promise_s = data.draw(st.floats(0.01, 2.0))
    left = bearable(terms, replicas, promise_s)
    if left == 0:
        return
    now_s = 100.0
    queued, running, busy, began_s = [], [], [], []
    for count in replicas:
        queued.append(data.draw(st.integers(0, left)))
        running.append(data.draw(st.integers(0, left - queued[-1])))
        left -= queued[-1] + running[-1]
        busy.append(data.draw(st.integers(0, min(count, running[-1]))))
        began_s.append(busy[-1] * (now_s - data.draw(st.floats(0.0, 1.0))))
    assert in_time(terms, Load(queued, running, busy, began_s, replicas, [1.0] * len(busy)), now_s, promise_s)


def test_more_is_bearable_where_more_is_promised() -> None:
    terms = admission_terms(make_plan(sorted(SHAPES)[0], 2, 4, 1.0))
    assert terms is not None
    replicas = [2] * len(terms.head_s)
    found = [bearable(terms, replicas, promise_s) for promise_s in (0.001, 1.0, 2.0, 4.0)]
    assert found[0] == 0
    assert 0 < found[1] < found[2] < found[3]
