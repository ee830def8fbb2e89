"""Conversion of Hydra's sweep syntax to Optuna distributions, and back to overrides."""

from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hydra_plugins.fer_optuna_sweeper._space import Space, SpaceError, override_text, parse_space


def space(params: dict[str, Any], *arguments: str, config: dict[str, Any] | None = None) -> Space:
    return parse_space(params, arguments, None, (config or {}).get)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sweep", "distribution"),
    [
        ("choice(64,128)", CategoricalDistribution([64, 128])),
        ("64,128", CategoricalDistribution([64, 128])),
        ("choice(a,'b c',true)", CategoricalDistribution(["a", "b c", True])),
        ("shuffle(choice(1,2))", CategoricalDistribution([1, 2])),
        ("choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"])),
        ("range(1,4)", IntDistribution(1, 3)),
        ("range(3)", IntDistribution(0, 2)),
        ("range(16,65,step=16)", IntDistribution(16, 64, step=16)),
        ("range(4,1,step=-1)", IntDistribution(2, 4)),
        ("range(0.0,0.5,step=0.1)", FloatDistribution(0.0, 0.4, step=0.1)),
        ("interval(0.8,0.99)", FloatDistribution(0.8, 0.99)),
        ("interval(1,2)", FloatDistribution(1.0, 2.0)),
        ("tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("int(interval(8,64))", IntDistribution(8, 64)),
        ("tag(int,interval(8,64))", IntDistribution(8, 64)),
        ("tag(int,log,interval(8,64))", IntDistribution(8, 64, log=True)),
        ("int(tag(log,interval(8,64)))", IntDistribution(8, 64, log=True)),
        ("tag(log,range(1,9))", IntDistribution(1, 8, log=True)),
    ],
)
def test_distribution_of_a_sweep(sweep: str, distribution: BaseDistribution):
    [from_params] = space({"x": sweep}).parameters
    [from_command] = space({}, f"x={sweep}").parameters
    assert from_params.distribution == from_command.distribution == distribution


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"x": "interval(2,1)"}, "x: .* lower bound above its upper bound"),
        ({"x": "tag(log,interval(0,1))"}, "x: .* above zero"),
        ({"x": "tag(lgo,interval(1,2))"}, "x: .* unknown tag lgo"),
        ({"x": "range(3,3)"}, "x: .* is empty"),
        ({"x": "range(1,3,step=0)"}, "x: .* is empty"),
        ({"x": "tag(log,range(1,9,2))"}, "x: .* does not support steps"),
        ({"x": "tag(int,interval(0.5,2))"}, "x: .* integers"),
        ({"x": "interval(0,inf)"}, "x: .* not finite"),
        ({"x": "choice(1,1)"}, "x: .* duplicate choice"),
        ({"x": "interval(1)"}, "interval.1. is not valid in Hydra's sweep syntax"),
        ({"x": {"space": "1,2"}}, "x: .* when and space"),
        ({"x": {"when": {"z": 1}, "space": "1,2"}}, "z, which is not in the config"),
        ({"x": {"when": {"y": 1}, "space": "1,2"}, "y": "1,2"}, "y, which must be defined before"),
        ({"y": "1,2", "x": {"when": {"y": 3}, "space": "1,2"}}, r"needs y in \[3\]"),
    ],
)
def test_invalid_space_raises_and_names_the_parameter(params: dict[str, Any], message: str):
    with pytest.raises(SpaceError, match=message):
        space(params)


def test_command_line_overrides_params():
    params = {"lr": "interval(0.1,1)", "epochs": 3, "width": "16,32"}
    parsed = space(params, "lr=0.5", "width=64,128", "+new=1,2", "~removed")
    assert [(p.key, p.name) for p in parsed.parameters] == [("width", "width"), ("+new", "new")]
    assert parsed.parameters[0].distribution == CategoricalDistribution([64, 128])
    overrides = parsed.overrides({"width": 128, "new": 2})
    assert overrides == ["lr=0.5", "epochs=3", "~removed", "width=128", "+new=2"]


MOMENTUM = {"when": {"optimizer": ["sgd", "rmsprop"]}, "space": "choice(0.8,0.9)"}
NESTEROV = {"when": {"momentum": 0.9}, "space": "choice(true,false)"}


def test_conditions_use_choices_fixed_values_and_the_config():
    params = {"optimizer": "sgd,adamw", "momentum": MOMENTUM, "nesterov": NESTEROV}
    assert space(params).grid() == [
        {"optimizer": "sgd", "momentum": 0.8},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
        {"optimizer": "adamw"},
    ]
    fixed = space(params, "optimizer=rmsprop", config={"optimizer": "adamw"})
    assert len(fixed.grid()) == 3
    assert space({"momentum": MOMENTUM}, config={"optimizer": "adamw"}).grid() == [{}]


def test_examples_cover_every_key_and_every_option_of_a_group():
    params = {"optimizer": "adamw,sgd,lion", "momentum": MOMENTUM, "nesterov": NESTEROV, "width": "1,2"}
    examples = list(space(params).examples(lambda name: name == "optimizer"))
    covered = {override for example in examples for override in example}
    assert {"optimizer=adamw", "optimizer=sgd", "optimizer=lion", "momentum=0.8", "nesterov=True"} <= covered
    assert all("optimizer=sgd" in e for e in examples if any(o.startswith("momentum") for o in e))


def test_grid_rejects_a_continuous_parameter():
    assert space({"x": "range(0.0,0.4,step=0.1)"}).grid() == [{"x": 0.0}, {"x": 0.1}, {"x": 0.2}, {"x": 0.3}]
    with pytest.raises(SpaceError, match="x is continuous"):
        space({"x": "interval(0,1)"}).grid()


@example("A²")
@given(st.text(max_size=12) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.none())
def test_override_text_round_trips_through_hydras_grammar(value: Any):
    assert OverridesParser.create().parse_override(f"x={override_text(value)}").value() == value


def test_choices_round_trip_through_hydras_grammar():
    parsed = space({"x": r"choice('a=b, c', '[d]', 'it\'s', 1e-3, true, [1,2], {a:1})"})
    [parameter] = parsed.parameters
    lines = [parsed.overrides({"x": value})[0] for value in parameter.grid_values()]
    values = [OverridesParser.create().parse_override(line).value() for line in lines]
    assert values == ["a=b, c", "[d]", "it's", 0.001, True, [1, 2], {"a": 1}]
