"""From Hydra's sweep syntax to Optuna's distributions, and from a trial's values back to overrides."""

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
    """A search space that cannot be meant."""


def override_text(value: Any) -> str:
    """A parameter's value as Hydra's grammar writes it: strings quoted where they need it."""
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
    """One dimension of the space.

    Attributes:
        key: What is overridden, as typed: `optimizer.lr`, `model`, `+new.key`.
        distribution: What it may be.
        texts: The choices as Hydra writes them, in the distribution's order; None where it is numeric.
        when: Other parameters and the values that switch this one on.
    """

    key: str
    distribution: BaseDistribution
    texts: tuple[str, ...] | None = None
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in the study: the key without its `+`."""
        return self.key.lstrip("+")

    def suggest(self, trial: Trial) -> Any:
        """Let the sampler choose."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return trial.suggest_categorical(self.name, choices)
            case IntDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_int(self.name, low, high, step=step, log=log)
            case FloatDistribution(low=low, high=high, step=step, log=log):
                return trial.suggest_float(self.name, low, high, step=step, log=log)
        raise AssertionError(self.distribution)

    def override(self, value: Any) -> str:
        """The override that sets a value of this parameter."""
        if self.texts is None:
            return f"{self.key}={value!r}"
        return f"{self.key}={self.texts[int(self.distribution.to_internal_repr(value))]}"

    @property
    def first(self) -> Any:
        """The first choice, or the low end."""
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return choices[0]
            case IntDistribution(low=low) | FloatDistribution(low=low):
                return low
        raise AssertionError(self.distribution)

    def values(self) -> list[Any]:
        """All values, for a grid.

        Raises:
            SpaceError: The parameter is continuous.
        """
        match self.distribution:
            case CategoricalDistribution(choices=choices):
                return list(choices)
            case IntDistribution(low=low, high=high, step=step, log=False):
                return list(range(low, high + 1, step))
            case FloatDistribution(low=low, high=high, step=float(step)):
                first, width = Decimal(str(low)), Decimal(str(step))
                count = round((Decimal(str(high)) - first) / width) + 1
                return [float(first + i * width) for i in range(count)]
        raise SpaceError(f"{self.name}: a grid needs choice(...) or range(...), this is an interval or on a log scale")


@dataclass(frozen=True)
class Space:
    """All parameters, in the order in which they are suggested, and the overrides that every job gets.

    Attributes:
        parameters: The dimensions; a conditional one stands after those on which it depends.
        fixed: Overrides as typed, by name.
        known: Value of a name that is not searched: its fixed override, or what the config says.
    """

    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, str]
    known: Callable[[str], Any]

    def _active(self, parameter: Parameter, values: Mapping[str, Any]) -> bool:
        searched = {p.name for p in self.parameters}
        return all(
            name in values and values[name] in wanted if name in searched else self.known(name) in wanted
            for name, wanted in parameter.when.items()
        )

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Values of the parameters whose conditions hold, by name, chosen by the trial's sampler."""
        values: dict[str, Any] = {}
        for parameter in self.parameters:
            if self._active(parameter, values):
                values[parameter.name] = parameter.suggest(trial)
        return values

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a job: the fixed ones, then the values."""
        return [
            *self.fixed.values(),
            *(p.override(values[p.name]) for p in self.parameters if p.name in values),
        ]

    def grid(self) -> list[dict[str, Any]]:
        """Every combination, the last parameter fastest.

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
                for value in parameter.values():
                    yield from points(index + 1, values | {parameter.name: value})

        return list(points(0, {}))

    def examples(self, is_group: Callable[[str], bool]) -> Iterator[list[str]]:
        """Jobs' overrides that together name every key, and every option of a config group, at least once."""

        def example(wanted: Mapping[str, Any]) -> list[str]:
            values: dict[str, Any] = {}
            for parameter in self.parameters:
                if self._active(parameter, values):
                    values[parameter.name] = wanted.get(parameter.name, parameter.first)
            return self.overrides(values)

        yield example({})
        by_name = {p.name: p for p in self.parameters}

        def conditions(parameter: Parameter) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, wanted in parameter.when.items():
                if name in by_name:
                    choices = getattr(by_name[name].distribution, "choices", wanted)
                    found |= conditions(by_name[name]) | {name: next(v for v in wanted if v in choices)}
            return found

        for parameter in self.parameters:
            if parameter.when:
                yield example(conditions(parameter))
            if parameter.texts is not None and is_group(parameter.name):
                for choice in parameter.values()[1:]:
                    yield example(conditions(parameter) | {parameter.name: choice})


def parse_space(
    params: Mapping[str, Any], arguments: Sequence[str], loader: ConfigLoader, known: Callable[[str], Any]
) -> Space:
    """Read `hydra.sweeper.params` and the command line, which has the last word.

    Args:
        params: By key, a sweep (`interval(0.8, 0.99)`), a plain value (fixed), or a conditional one:
            `{when: {optimizer: sgd}, space: interval(0.8, 0.99)}`, where `when` may list several values.
        arguments: The overrides of the command line.
        loader: Hydra's config loader, for `glob`.
        known: What the config says of a name, None where it says nothing.

    Raises:
        SpaceError: Naming the parameter and what is wrong with it.
    """
    parser = OverridesParser.create(config_loader=loader)
    entries: dict[str, tuple[Override, Mapping[str, Any]]] = {}
    for key, value in params.items():
        when: Mapping[str, Any] = {}
        if isinstance(value, Mapping):
            if set(value) != {"when", "space"}:
                raise SpaceError(f"{key}: a conditional parameter has the keys when and space, not {sorted(value)}")
            when, value = value["when"], value["space"]
        override = _parse(parser, f"{key}={'null' if value is None else value}")
        entries[_name(override)] = override, when
    for argument in arguments:
        override = _parse(parser, argument)
        entries[_name(override)] = override, entries.get(_name(override), (None, {}))[1]

    parameters: list[Parameter] = []
    fixed: dict[str, str] = {}
    fixed_values: dict[str, Any] = {}
    for name, (override, when) in entries.items():
        if not override.is_sweep_override():
            fixed[name] = str(override.input_line)
            fixed_values[name] = override.value()
            continue
        wanted = {k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in when.items()}
        parameters.append(_parameter(override, wanted))

    def value_of(name: str) -> Any:
        return fixed_values[name] if name in fixed_values else known(name)

    earlier: dict[str, Parameter] = {}
    for parameter in parameters:
        for name, values in parameter.when.items():
            parent = earlier.get(name)
            if parent is None and any(p.name == name for p in parameters):
                raise SpaceError(f"{parameter.name}: its condition names {name}, which must stand above it")
            if parent is None and value_of(name) is None:
                raise SpaceError(f"{parameter.name}: its condition names {name}, which is not in the config")
            choices = getattr(parent and parent.distribution, "choices", None)
            if choices is not None and not any(v in choices for v in values):
                raise SpaceError(f"{parameter.name}: {name} is never one of {list(values)}, but one of {list(choices)}")
        earlier[parameter.name] = parameter
    return Space(tuple(parameters), fixed, value_of)


def _name(override: Override) -> str:
    return override.get_key_element().lstrip("+")


def _parse(parser: OverridesParser, line: str) -> Override:
    try:
        return parser.parse_override(line)
    except HydraException as error:
        raise SpaceError(f"{line}: not Hydra's sweep syntax: {error}") from error


def _parameter(override: Override, when: Mapping[str, Sequence[Any]]) -> Parameter:
    key, sweep = override.get_key_element(), override.value()
    place = f"{_name(override)}: {override.get_value_string()}"
    if isinstance(sweep, Sweep) and (unknown := sweep.tags - {"log", "int"}):
        raise SpaceError(f"{place} has the unknown tag {', '.join(sorted(unknown))}; there are log and int")
    if isinstance(sweep, RangeSweep | IntervalSweep):
        return Parameter(key, _numeric(sweep, place), when=when)
    if isinstance(sweep, ChoiceSweep):
        sweep.shuffle = False  # the sampler draws; values and texts must come in one order
    values = [Override._convert_value(value) for value in override.sweep_iterator()]
    if not values:
        raise SpaceError(f"{place} offers nothing to choose from")
    texts = tuple(
        text if isinstance(value, list | dict) else override_text(value)
        for value, text in zip(values, override.sweep_string_iterator(), strict=True)
    )
    choices = [t if isinstance(v, list | dict) else v for v, t in zip(values, texts, strict=True)]
    if len(set(choices)) < len(choices):
        raise SpaceError(f"{place} has the same choice twice")
    return Parameter(key, CategoricalDistribution(choices), texts, when)


def _numeric(sweep: RangeSweep | IntervalSweep, place: str) -> IntDistribution | FloatDistribution:
    log, step = "log" in sweep.tags, None
    if isinstance(sweep, IntervalSweep):
        low, high = Decimal(str(sweep.start)), Decimal(str(sweep.end))
        # interval() makes floats of its ends, and int(interval()) whole numbers again
        whole = "int" in sweep.tags or not any(isinstance(end, float) for end in (sweep.start, sweep.end))
        if low > high:
            raise SpaceError(f"{place} has its low end above its high end")
    else:
        start, stop, step = (Decimal(str(v)) for v in (sweep.start, sweep.stop, sweep.step))
        count = ceil((stop - start) / step) if step else 0  # the stop is left out, as everywhere in Hydra
        if count < 1:
            raise SpaceError(f"{place} is empty: from {start} to {stop} in steps of {step}")
        low, high = sorted((start, start + (count - 1) * step))
        step, whole = abs(step), all(v == int(v) for v in (start, step))
        whole = whole and not any(isinstance(v, float) for v in (sweep.start, sweep.stop, sweep.step))
    if not (low.is_finite() and high.is_finite()):
        raise SpaceError(f"{place} has an end that is not a number")
    if log and low <= 0:
        raise SpaceError(f"{place} is on a log scale, so its low end must be above zero")
    if log and step is not None and not (whole and step == 1):
        raise SpaceError(f"{place} is on a log scale, which has no steps: use interval")
    if whole and (low != int(low) or high != int(high)):
        raise SpaceError(f"{place} is of integers, so its ends must be integers")
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=None if step is None else float(step))
