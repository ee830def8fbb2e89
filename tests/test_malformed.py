"""A few malformed inputs of every kind; benchmarks/malformed.py feeds thousands."""

import pytest
from hypothesis import HealthCheck, given, settings
from malformed import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_malformed_inputs_work_or_are_refused_in_words(target: Target) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def feed(malformed: object) -> None:
        target.accepts(malformed)

    feed()
