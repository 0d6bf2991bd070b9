"""What a stage of the pipeline domain declares, and how what runs today is read."""

import pytest

from headway.domains.pipeline.declare import ConfigText, ModelStage, ReplicaConfig
from headway.errors import PlanError
from headway.spec import Variant


def test_a_variant_inherits_what_it_does_not_say() -> None:
    stage = ModelStage(
        model="m.py:A",
        options={"language": "en", "width": 736},
        variants={"small": Variant(options={"width": 320}), "other": Variant(model="b.onnx")},
    )
    assert stage.variant_names == ("small", "other")
    assert stage.variant("small") == Variant(model="m.py:A", options={"language": "en", "width": 320})
    assert stage.variant("other") == Variant(model="b.onnx", options={"language": "en", "width": 736})


def test_a_stage_without_variants_has_the_default_one() -> None:
    stage = ModelStage(accuracy=0.9)
    assert stage.variant_names == ("default",)
    assert stage.variant("default").accuracy == 0.9
    assert stage.hardware_names is None
    assert ModelStage(hardware="cpu").hardware_names == ("cpu",)


def test_a_stages_accuracy_holds_for_variants_that_state_none() -> None:
    stage = ModelStage(accuracy=0.9, variants={"small": Variant(accuracy=0.8), "large": Variant()})
    assert [stage.variant(name).accuracy for name in stage.variant_names] == [0.8, 0.9]


def test_a_configuration_is_read_with_its_units() -> None:
    read = ConfigText.read({"hardware": "cpu", "replicas": 3, "max_wait": "5ms", "variant": "small"}, "current.a")
    assert read == ReplicaConfig("cpu", replicas=3, variant="small", max_wait_s=0.005)


def test_every_problem_of_a_configuration_is_named_at_its_field() -> None:
    with pytest.raises(PlanError) as caught:
        ConfigText.read({"hardwar": "cpu", "replicas": 0, "max_wait": 5}, "current.a")
    lines = str(caught.value).splitlines()
    assert "current.a.replicas: 0 is out of range; it must be at least 1" in lines
    assert "current.a.max_wait: 5 has no unit; write it as text like '300ms'" in lines
    assert any(
        line.startswith("current.a.hardwar: unknown field; valid: ") and "did you mean 'hardware'?" in line
        for line in lines
    )
    assert len(lines) == 3
