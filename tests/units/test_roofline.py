"""Step times: what is shipped against the figures it is made from, priors, fits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headway.errors import ProfileError
from headway.fleet.all_reduce import all_reduce, all_reduces_s, link_efficiency, reductions
from headway.fleet.datasheets import WEIGHT_BYTES, Gpu, Model, gpus, models
from headway.fleet.roofline import (
    FITTED,
    LEFT_OUT,
    MEMORY_SHARE,
    best_fit,
    efficiency,
    error_on_other_gpus,
    fitted,
    prior,
    published,
    roofline,
)
from headway.fleet.step_time import StepTime, Timing, endpoint_timings, error_left_out, fit, read_timings


@pytest.mark.parametrize("key", sorted({row[:3] for row in published()}))
def test_every_shipped_roofline_is_near_the_timings_it_comes_from(key: tuple[str, str, int]) -> None:
    found = roofline(*key)
    assert found.evidence == "imported"
    assert found.error_ratio is not None
    assert 0.01 < found.error_ratio < 0.13
    assert "predicted from the others" in found.error_on
    assert "MIT licence" in found.source
    model, gpu, ways = key
    for timing in (row[3] for row in published() if row[:3] == key):
        added_s = all_reduces_s(models()[model], gpus()[gpu], ways, timing.tokens, gpu) if ways > 1 else 0.0
        assert found.step.seconds(timing.tokens) == pytest.approx(timing.seconds + added_s, rel=0.2)


def test_every_name_in_the_timings_is_a_known_model_and_gpu() -> None:
    assert {row[0] for row in published()} <= set(models())
    assert {row[1] for row in published()} <= set(gpus())


def test_the_efficiency_is_a_share_of_the_peak_and_a_prior_says_how_wrong_it_may_be() -> None:
    memory_share, compute_share, error_ratio = efficiency()
    assert 0.5 < memory_share < 1.0
    assert 0.5 < compute_share < 1.0
    assert 0.0 < error_ratio < 0.3
    assert roofline("mistral-7b", "a100-80gb").error_ratio == error_ratio


@pytest.mark.parametrize("gpu", sorted(set(gpus()) - {row[1] for row in published()}))
def test_a_gpu_of_which_nothing_was_measured_has_the_error_of_gpus_that_were_left_out(gpu: str) -> None:
    found = roofline("phi-2", gpu)
    assert found.error_ratio == error_on_other_gpus() != efficiency()[2]
    assert f"no timing of {gpu} is known" in found.error_on
    left_out = roofline("mistral-7b", "a40-48gb")
    assert left_out.error_ratio == efficiency()[2]
    assert "no timing" not in left_out.error_on


def test_the_error_of_a_fit_is_that_at_timings_it_has_not_seen() -> None:
    true = StepTime(floor_s=0.01, token_s=1e-4)
    rows = [(8.0, 1.0), (512.0, 1.0), (1024.0, 1.0), (2048.0, 1.2), (4096.0, 1.0)]
    timings = [Timing(tokens, 0.0, true.seconds(tokens) * odd) for tokens, odd in rows]
    seen, unseen = fit(timings)[1], error_left_out(timings)
    assert unseen is not None
    assert unseen > 1.2 * seen
    one_out = [fit(timings[:at] + timings[at + 1 :])[0] for at in range(1, 5)]
    each = [abs(step.seconds(t.tokens) / t.seconds - 1.0) for step, t in zip(one_out, timings[1:], strict=True)]
    assert unseen == pytest.approx(np.mean(each))
    assert error_left_out(timings[:3]) is None
    exact = [Timing(tokens, 0.0, true.seconds(tokens)) for tokens, _ in rows]
    assert error_left_out(exact) == pytest.approx(0.0, abs=1e-9)


def test_a_prior_is_near_what_was_measured_of_the_same_model() -> None:
    model, gpu = models()["llama-3-8b"], gpus()["a100-80gb"]
    guessed, measured = prior(model, gpu, 1).step, roofline("llama-3-8b", "a100-80gb").step
    assert guessed.floor_s == pytest.approx(measured.floor_s, rel=0.3)
    assert guessed.token_s == pytest.approx(measured.token_s, rel=0.3)


@pytest.mark.parametrize("gpu", ["a100-80gb", "h100-80gb", "l4-24gb"])
def test_parallelism_shares_the_work_and_pays_for_all_reduces(gpu: str) -> None:
    model = models()["mistral-7b"]
    one = roofline("mistral-7b", gpu, 1)
    for ways in (2, 4, 8):
        several = roofline("mistral-7b", gpu, ways)
        for tokens in (1, 512, 2048, 4096):
            ideal_s = one.step.seconds(tokens) / ways
            added_s = all_reduces_s(model, gpus()[gpu], ways, tokens, gpu)
            assert several.step.seconds(tokens) == pytest.approx(ideal_s + added_s, rel=0.25)
            assert several.step.seconds(tokens) > ideal_s
        assert several.error_ratio is not None
        assert one.error_ratio is not None
        assert several.error_ratio > one.error_ratio
        assert "all-reduces" in several.source


def test_an_all_reduce_is_as_published_or_as_its_link_lets_expect() -> None:
    for gpu, workers, timing in reductions():
        step, known, error_ratio = all_reduce(gpus()[gpu], workers, gpu)
        assert known
        assert error_ratio < 0.25
        assert step.seconds(timing.tokens) == pytest.approx(timing.seconds, rel=0.5)
    floor_s, share, error_ratio = link_efficiency()
    assert 1e-5 < floor_s < 1e-4
    assert 0.3 < share < 1.0
    assert 0.0 < error_ratio < 0.4
    fast, slow = (all_reduce(gpus()[gpu], 4, gpu)[0].seconds(6e7) for gpu in ("h200-141gb", "l4-24gb"))
    assert slow / fast == pytest.approx(4.5e11 / 3.2e10)
    unlinked = Gpu(1e10, 1e12, 1e14, 3.2e10)
    assert all_reduce(unlinked, 2)[0].seconds(6e7) == pytest.approx(6e7 / 3.2e10 / share)


@pytest.mark.parametrize("gpu", sorted(gpus()))
@pytest.mark.parametrize("model", sorted(models()))
def test_whatever_is_shipped_says_where_it_is_from_and_how_wrong_it_may_be(model: str, gpu: str) -> None:
    weights = models()[model].parameters * 2.0 / (0.9 * gpus()[gpu].memory_bytes)
    for ways in (each for each in (1, 2, 4, 8) if each > weights):
        found = roofline(model, gpu, ways)
        assert found.evidence in ("imported", "prior")
        assert found.source
        assert found.error_ratio is not None
        assert 0.0 < found.error_ratio < 0.35


def test_parallelism_multiplies_memory() -> None:
    one, two = (roofline("mistral-7b", "a100-80gb", ways) for ways in (1, 2))
    assert two.kv_tokens > 2 * one.kv_tokens
    assert one.swap_token_s == pytest.approx(131072 / (3.2e10 * 0.8))


def test_a_fit_finds_what_made_the_timings() -> None:
    true = StepTime(floor_s=0.009, token_s=6.3e-5, kv_token_s=2.6e-7)
    rng = np.random.default_rng(1)
    rows = [(float(n), float(kv)) for n in (1, 16, 64, 128, 256, 512, 2048) for kv in (0, 20_000, 80_000)]
    timings = [Timing(n, kv, true.seconds(n, kv) * float(rng.uniform(0.99, 1.01))) for n, kv in rows]
    step, error_ratio = fit(timings)
    assert step.floor_s == pytest.approx(true.floor_s, rel=0.02)
    assert step.token_s == pytest.approx(true.token_s, rel=0.02)
    assert step.kv_token_s == pytest.approx(true.kv_token_s, rel=0.03)
    assert error_ratio < 0.01


def test_an_idle_endpoint_shows_its_constants() -> None:
    true = StepTime(floor_s=0.02, token_s=1e-4, kv_token_s=1e-7)
    prompts, outputs = [50.0, 400.0, 900.0, 3000.0], [101.0, 51.0, 201.0, 11.0]
    first = [true.seconds(prompt) for prompt in prompts]
    ends = [
        at_s + sum(true.seconds(1, prompt + made) for made in range(int(output) - 1))
        for at_s, prompt, output in zip(first, prompts, outputs, strict=True)
    ]
    step, error_ratio = fit(endpoint_timings(prompts, first, outputs, ends))
    assert error_ratio < 0.01
    assert step.token_s == pytest.approx(true.token_s, rel=0.02)
    assert step.floor_s == pytest.approx(true.floor_s, rel=0.02)


def test_fitted_constants_are_stamped_and_keep_what_timings_do_not_show() -> None:
    base = roofline("mistral-7b", "l4-24gb")
    found = fitted(base, [Timing(8, 0, 0.06), Timing(2048, 0, 0.5)], evidence="measured", source="my endpoint")
    assert (found.evidence, found.source) == ("measured", "my endpoint")
    assert found.step.pair_s == base.step.pair_s
    assert found.step.kv_token_s == base.step.kv_token_s
    with pytest.raises(ProfileError, match="evidence is 'prior'"):
        fitted(base, [Timing(8, 0, 0.06), Timing(2048, 0, 0.5)], evidence="prior", source="")


def test_timings_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(
        "# measured on a bench\ntokens,kv_tokens,seconds,pairs\n8,0,0.01,36\n512,100,0.05,\n", encoding="utf-8"
    )
    assert read_timings(path) == [Timing(8.0, 0.0, 0.01, 36.0), Timing(512.0, 100.0, 0.05)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tokens\n8\n", "no column 'seconds'"),
        ("tokens,seconds\n8,fast\n", "row 1"),
        ("tokens,seconds\n8,0\n", "must be above 0"),
    ],
)
def test_a_bad_file_is_an_error_that_says_where(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "steps.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ProfileError, match=says):
        read_timings(path)


def test_constants_are_fitted_in_the_shape_that_predicts_what_is_left_out_and_say_on_what_they_err() -> None:
    affine = [Timing(n, 0.0, 0.03 + n / 25_600) for n in (1, 512, 1024, 2048)]
    floor = [Timing(n, 0.0, max(0.01, n / 10_000)) for n in (8, 512, 1024, 2048)]
    for timings, overhead_s in ((affine, 0.03), (floor, 0.0)):
        step, error_ratio, error_on = best_fit(timings)
        assert (step.overhead_s, error_ratio) == pytest.approx((overhead_s, 0.0), abs=1e-9)
        assert error_on == LEFT_OUT
    step, error_ratio, error_on = best_fit([Timing(8, 0.0, 0.03), Timing(64, 0.0, 0.02), Timing(512, 0.0, 0.05)])
    assert error_on == FITTED
    assert 0.05 < error_ratio < 0.3


def test_beyond_its_heads_keys_and_values_are_held_more_than_once() -> None:
    eight, sixteen = (roofline("llama-3-70b", "h100-80gb", ways) for ways in (8, 16))
    model, gpu = models()["llama-3-70b"], gpus()["h100-80gb"]
    left = [ways * MEMORY_SHARE * gpu.memory_bytes - model.parameters * WEIGHT_BYTES for ways in (8, 16)]
    assert eight.kv_tokens == int(left[0] / model.kv_bytes)
    assert sixteen.kv_tokens == int(left[1] / (2.0 * model.kv_bytes))
    assert sixteen.step.kv_token_s == pytest.approx(eight.step.kv_token_s)


def test_what_is_not_known_or_does_not_fit_is_an_error_that_says_what_would_be() -> None:
    with pytest.raises(ProfileError, match="did you mean 'llama-2-7b'"):
        roofline("llama-2-7", "a100-80gb")
    with pytest.raises(ProfileError, match="no GPU is called 'mi300'"):
        roofline("llama-2-7b", "mi300")
    with pytest.raises(ProfileError, match="raise tensor_parallel"):
        roofline("llama-2-70b", "a100-80gb")
    with pytest.raises(ProfileError, match="tensor_parallel is 0"):
        roofline("llama-2-7b", "a100-80gb", 0)
    with pytest.raises(ProfileError, match=r"32 attention heads .* evenly over 3 accelerators"):
        roofline("llama-2-7b", "a100-80gb", 3)
    with pytest.raises(ProfileError, match="two different numbers"):
        fit([Timing(8, 0, 0.01), Timing(8, 0, 0.02)])
    with pytest.raises(ProfileError, match="the nearest is off by 416% on average"):
        fit([Timing(1, 0, 0.5), Timing(512, 0, 0.01), Timing(2048, 0, 0.5)])
    with pytest.raises(ProfileError, match=r"request 1 .* the first after nan s"):
        endpoint_timings([9, 9], [0.1, float("nan")], [5, 5], [0.5, 0.6])
    with pytest.raises(ProfileError, match=r"request 0 .* the first after 0\.7 s and the last after 0\.5 s"):
        endpoint_timings([9], [0.7], [5], [0.5])
    with pytest.raises(ProfileError, match="different lengths"):
        endpoint_timings([1.0], [], [], [])
    with pytest.raises(ProfileError, match="below 0"):
        StepTime(floor_s=-1.0, token_s=0.0)
    tiny = prior(Model(1e9, 16, 16, 16, 64), Gpu(1e10, 1e12, 1e14, 1e10), 1)
    assert tiny.evidence == "prior"


def test_requests_that_are_sent_together_show_what_several_tokens_take() -> None:
    true = StepTime(floor_s=0.016, token_s=0.009, kv_token_s=8e-6, pair_s=9e-6)
    prompts, first, outputs, ends, groups = [], [], [], [], []
    for group, (requests, prompt, output) in enumerate(
        ((1, 24, 16), (1, 96, 16), (1, 224, 16), (2, 24, 24), (4, 24, 24))
    ):
        begun_s = true.seconds(requests * prompt, pairs=requests * 0.5 * prompt * (prompt + 1))
        took_s = sum(true.seconds(requests, requests * (prompt + made)) for made in range(output - 1))
        for at in range(requests):
            prompts.append(prompt)
            first.append(begun_s - 0.01 * (requests - 1 - at))
            outputs.append(output)
            ends.append(begun_s + took_s)
            groups.append(group)
    found = endpoint_timings(prompts, first, outputs, ends, groups)
    assert sorted({timing.tokens for timing in found}) == [1.0, 2.0, 4.0, 24.0, 96.0, 224.0]
    step, error_ratio = fit(found)
    assert error_ratio < 0.005
    assert step.token_s == pytest.approx(true.token_s, rel=0.02)
    assert step.kv_token_s == pytest.approx(true.kv_token_s, rel=0.1)
    assert step.pair_s == pytest.approx(true.pair_s, rel=0.1)


def test_an_overhead_stands_in_for_the_floor_where_it_is_asked_for_and_fits_better() -> None:
    true = StepTime(floor_s=0.0, token_s=0.012, kv_token_s=4e-5, overhead_s=0.01)
    rows = ((1.0, 30.0), (1.0, 300.0), (2.0, 150.0), (4.0, 280.0), (24.0, 0.0), (96.0, 0.0), (224.0, 0.0))
    timings = [Timing(tokens, context, true.seconds(tokens, context)) for tokens, context in rows]
    step, error_ratio = fit(timings, overhead=True)
    assert error_ratio < 1e-9
    for name in ("floor_s", "token_s", "kv_token_s", "overhead_s"):
        assert getattr(step, name) == pytest.approx(getattr(true, name), abs=1e-9)
    assert fit(timings)[0].overhead_s == 0.0
    assert fit(timings)[1] > 0.02
    flat = [Timing(8, 0, 0.01), Timing(64, 0, 0.01), Timing(1000, 0, 0.1), Timing(2000, 0, 0.2)]
    assert fit(flat, overhead=True) == fit(flat)
