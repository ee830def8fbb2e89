"""Fuzzing with a few malformed inputs of every kind; benchmarks/malformed.py uses thousands."""

import pytest
from hypothesis import HealthCheck, given, settings
from malformed import TARGETS, Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_malformed_inputs_are_accepted_or_refused_with_a_message(target: Target) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(target.inputs)
    def fuzz(malformed: object) -> None:
        target.accepts(malformed)

    fuzz()
