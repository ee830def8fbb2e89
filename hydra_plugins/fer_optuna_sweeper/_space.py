"""Converts Hydra's sweep syntax to Optuna distributions, and a trial's values to overrides."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Sweep,
)
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial


class SpaceError(ValueError):
    """An invalid search space."""


def override_text(value: Any) -> str:
    """Format a parameter's value in Hydra's override grammar, with strings quoted where necessary."""
    if value is None:
        return "null"
    if not isinstance(value, str):
        return repr(value)
    if re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII) and value.lower() not in {
        "null",
        "true",
        "false",
        "nan",
        "inf",
    }:
        return value
    return QuotedString(value, Quote.single).with_quotes()


@dataclass(frozen=True)
class Parameter:
    """One dimension of the search space.

    Attributes:
        key: The key of the override, with its prefix: `optimizer.lr`, `model`, `+new.key`.
        distribution: The values to sample from.
        choice_texts: The choices in Hydra's override grammar, in the distribution's order; None if numeric.
        when: Other parameters and their values for which this one is active.
    """

    key: str
    distribution: BaseDistribution
    choice_texts: tuple[str, ...] | None = None
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in the study: the key without a leading `+`."""
        return self.key.lstrip("+")

    def suggest(self, trial: Trial) -> Any:
        """Return a value sampled for the trial."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.name, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_float(self.name, low, high, step=step, log=log)
        raise AssertionError(self.distribution)

    def override(self, value: Any) -> str:
        """Return the override that sets this parameter to a value."""
        if self.choice_texts is None:
            return f"{self.key}={value!r}"
        return f"{self.key}={self.choice_texts[int(self.distribution.to_internal_repr(value))]}"

    @property
    def first_value(self) -> Any:
        """The first choice, or the lower bound."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return choices[0]
            case IntDistribution(low=low) | FloatDistribution(low=low):
                return low
        raise AssertionError(self.distribution)

    def grid_values(self) -> list[Any]:
        """Return all values, for a grid.

        Raises:
            SpaceError: The parameter is continuous.
        """
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution(low=low, high=high, step=step, log=False):
                return list(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=float(step)):
                start, width = Decimal(str(low)), Decimal(str(step))
                count = round((Decimal(str(high)) - start) / width) + 1
                return [float(start + i * width) for i in range(count)]
        raise SpaceError(f"{self.name} is continuous or on a log scale; a grid needs choice(...) or range(...)")


@dataclass(frozen=True)
class Space:
    """The search space: its parameters, and the fixed overrides of every job.

    Attributes:
        parameters: The parameters in the order of suggestion; a conditional one follows those on which it depends.
        fixed: Overrides by name, as given.
        config_value: Returns the value of a name that is not searched: its fixed override or config value.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, str]
    config_value: Callable[[str], Any]

    def _active(self, parameter: Parameter, values: Mapping[str, Any]) -> bool:
        searched = {p.name for p in self.parameters}
        return all(
            name in values and values[name] in wanted if name in searched else self.config_value(name) in wanted
            for name, wanted in parameter.when.items()
        )

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Return sampled values of the active parameters, by name."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if self._active(parameter, values):
                values[parameter.name] = parameter.suggest(trial)
        return values

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """Return the overrides of a job: the fixed ones, then those that set the values."""
        return [
            *self.fixed.values(),
            *(p.override(values[p.name]) for p in self.parameters if p.name in values),
        ]

    def grid(self) -> list[dict[str, Any]]:
        """Return every combination of values; the last parameter varies fastest.

        Raises:
            SpaceError: A parameter is continuous.
        """

        def points(index: int, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if index == len(self.parameters):
                yield values
                return
            parameter = self.parameters[index]
            if not self._active(parameter, values):
                yield from points(index + 1, values)
            else:
                for value in parameter.grid_values():
                    yield from points(index + 1, values | {parameter.name: value})

        return list(points(0, {}))

    def examples(self, is_group: Callable[[str], bool]) -> Iterator[list[str]]:
        """Yield job overrides that together cover every key, and every searched option of a config group."""

        def example(wanted: Mapping[str, Any]) -> list[str]:
            values: dict[str, Any] = {}
            for parameter in self.parameters:
                if self._active(parameter, values):
                    values[parameter.name] = wanted.get(parameter.name, parameter.first_value)
            return self.overrides(values)

        yield example({})
        by_name = {p.name: p for p in self.parameters}

        def conditions(parameter: Parameter) -> dict[str, Any]:
            values: dict[str, Any] = {}
            for name, wanted in parameter.when.items():
                if name in by_name:
                    choices = getattr(by_name[name].distribution, "choices", wanted)
                    values |= conditions(by_name[name]) | {name: next(v for v in wanted if v in choices)}
            return values

        for parameter in self.parameters:
            if parameter.when:
                yield example(conditions(parameter))
            if parameter.choice_texts is not None and is_group(parameter.name):
                for choice in parameter.grid_values()[1:]:
                    yield example(conditions(parameter) | {parameter.name: choice})


def parse_space(
    params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader, config_value: Callable[[str], Any]
) -> Space:
    """Parse `hydra.sweeper.params` and the command-line overrides, which take precedence.

    Args:
        params: By key: a sweep (`interval(0.8, 0.99)`), a fixed value, or a conditional sweep
            `{when: {optimizer: sgd}, space: interval(0.8, 0.99)}`, where `when` may list several values.
        arguments: The command-line overrides.
        loader: Hydra's config loader, needed for `glob`.
        config_value: Returns the value of a name in the config, None if it has none.

    Raises:
        SpaceError: A parameter is invalid; the message names it and the reason.
    """
    parameters: list[Parameter] = []
    fixed: dict[str, str] = {}
    fixed_values: dict[str, Any] = {}
    for name, (override, when) in _entries(params, arguments, loader).items():
        if not override.is_sweep_override():
            fixed[name] = str(override.input_line)
            fixed_values[name] = override.value()
            continue
        wanted = {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in when.items()}
        parameters.append(_parameter(override, wanted))

    def value_of(name: str) -> Any:
        return fixed_values[name] if name in fixed_values else config_value(name)

    _check_conditions(parameters, value_of)
    return Space(tuple(parameters), fixed, value_of)


def _entries(
    params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader
) -> dict[str, tuple[Override, Mapping[str, Any]]]:
    """Return the override and the condition of each name; those of the command line replace those of `params`."""
    parser = OverridesParser.create(config_loader=loader)
    entries: dict[str, tuple[Override, Mapping[str, Any]]] = {}
    for key, value in params.items():
        when: Mapping[str, Any] = {}
        if isinstance(value, Mapping):
            if set(value) != {"when", "space"}:
                raise SpaceError(
                    f"{key}: a conditional parameter must have the keys when and space, not {sorted(value)}"
                )
            when, value = value["when"], value["space"]
        override = _parse(parser, f"{key}={'null' if value is None else value}")
        entries[_name(override)] = override, when
    for argument in arguments:
        override = _parse(parser, argument)
        entries[_name(override)] = override, entries.get(_name(override), (None, {}))[1]
    return entries


def _check_conditions(parameters: Sequence[Parameter], value_of: Callable[[str], Any]) -> None:
    """Refuse conditions on a later parameter, on a name that has no value, and on values that cannot occur."""
    earlier: dict[str, Parameter] = {}
    for parameter in parameters:
        for name, values in parameter.when.items():
            parent = earlier.get(name)
            if parent is None and any(p.name == name for p in parameters):
                raise SpaceError(f"{parameter.name}: its condition depends on {name}, which must be defined before it")
            if parent is None and value_of(name) is None:
                raise SpaceError(f"{parameter.name}: its condition depends on {name}, which is not in the config")
            choices = getattr(parent and parent.distribution, "choices", None)
            if choices is not None and not any(v in choices for v in values):
                raise SpaceError(
                    f"{parameter.name}: its condition needs {name} in {list(values)}, but it is one of {list(choices)}"
                )
        earlier[parameter.name] = parameter


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+")


def _parse(parser: OverridesParser, line: str) -> Override:
    try:
        return parser.parse_override(line)
    except HydraException as error:
        raise SpaceError(f"{line} is not valid in Hydra's sweep syntax: {error}") from error


def _parameter(override: Override, when: Mapping[str, Sequence[Any]]) -> Parameter:
    key, sweep = override.get_key_element(), override.value()
    label = f"{_name(override)}: {override.get_value_string()}"
    if isinstance(sweep, Sweep) and (unknown := sweep.tags - {"log", "int"}):
        raise SpaceError(f"{label} has the unknown tag {', '.join(sorted(unknown))}; the tags are log and int")
    if isinstance(sweep, RangeSweep | IntervalSweep):
        return Parameter(key, _numeric(sweep, label), when=when)
    if isinstance(sweep, ChoiceSweep):
        sweep.shuffle = False  # the sampler randomises; values and texts must have the same order
    values = [Override._convert_value(value) for value in override.sweep_iterator()]
    if not values:
        raise SpaceError(f"{label} has no choices")
    choice_texts = tuple(
        text if isinstance(value, list | dict) else override_text(value)
        for value, text in zip(values, override.sweep_string_iterator(), strict=True)
    )
    choices = [t if isinstance(v, list | dict) else v for v, t in zip(values, choice_texts, strict=True)]
    if len(set(choices)) < len(choices):
        raise SpaceError(f"{label} has a duplicate choice")
    return Parameter(key, CategoricalDistribution(choices), choice_texts, when)


def _numeric(sweep: RangeSweep | IntervalSweep, label: str) -> IntDistribution | FloatDistribution:
    log, step = "log" in sweep.tags, None
    if isinstance(sweep, IntervalSweep):
        low, high = Decimal(str(sweep.start)), Decimal(str(sweep.end))
        # interval() converts its bounds to float, and int(interval()) converts them back to int
        integer = "int" in sweep.tags or not any(isinstance(bound, float) for bound in (sweep.start, sweep.end))
        if low > high:
            raise SpaceError(f"{label} has a lower bound above its upper bound")
    else:
        start, stop, step = (Decimal(str(v)) for v in (sweep.start, sweep.stop, sweep.step))
        count = ceil((stop - start) / step) if step else 0  # the stop is excluded, as in Hydra's own range sweeps
        if count < 1:
            raise SpaceError(f"{label} is empty: from {start} to {stop} in steps of {step}")
        low, high = sorted((start, start + (count - 1) * step))
        step, integer = abs(step), all(v == int(v) for v in (start, step))
        integer = integer and not any(isinstance(v, float) for v in (sweep.start, sweep.stop, sweep.step))
    if not (low.is_finite() and high.is_finite()):
        raise SpaceError(f"{label} has a bound that is not finite")
    if log and low <= 0:
        raise SpaceError(f"{label} is on a log scale, so its lower bound must be above zero")
    if log and step is not None and not (integer and step == 1):
        raise SpaceError(f"{label} is on a log scale, which does not support steps; use interval")
    if integer and (low != int(low) or high != int(high)):
        raise SpaceError(f"{label} is an integer range, so its bounds must be integers")
    if integer:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))
