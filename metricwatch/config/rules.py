"""What a rule may say. One key of a rule tells its kind: moves, above, below, z_score, stale, nonfinite or state."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from metricwatch import catalog
from metricwatch.config.composites import composite_key, gives
from metricwatch.config.context import Section, context_of
from metricwatch.config.matchers import BUILT_IN_LABELS
from metricwatch.config.overrides import overridden, overriding
from metricwatch.config.quantities import Fraction, PositiveDuration
from metricwatch.config.secrets import may_hold_secret, quoted
from metricwatch.config.templates import check_template
from metricwatch.records import ScoreState, Severity

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ANY = "any"
_SHORTEST_STALE = timedelta(seconds=1)


class Message(Section):
    """Templates (Jinja) that replace the words of a rule's messages; None: ours. See metricwatch.config.templates."""

    title: str | None = Field(default=None, min_length=1)
    text: str | None = Field(default=None, min_length=1)

    @field_validator("title", "text")
    @classmethod
    def _usable(cls, template: str | None) -> str | None:
        if template is not None:
            check_template(template)
        return template


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic takes a ValueError for an answer
    return value


Number = Annotated[float, BeforeValidator(_no_truth), Field(allow_inf_nan=False)]
NoiseMultiple = Annotated[float, BeforeValidator(_no_truth), Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_truth)]


class BaseRule(Section):
    """What every rule says. receivers None: those that the routes say.

    in_a_row evaluations must agree before it fires; the first `warmup` evaluations of a run are not looked at; when the
    condition is over it goes on firing for keep_firing evaluations. severity None: critical for the worse, info for the
    better. labels are added to those that every alert has, for routes and silences. runs says what differs for some
    runs: ask for_run() for the rule of a run.
    """

    kind: ClassVar[str]

    name: str
    metric: str
    in_a_row: Count = Field(default=1, ge=1, alias="for")
    warmup: Count = Field(default=0, ge=0)
    keep_firing: Count = Field(default=0, ge=0)
    severity: Severity | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    message: Message = Field(default_factory=Message)
    receivers: tuple[str, ...] | None = None
    runs: dict[str, Any] = Field(default_factory=dict)
    _overrides: dict[str, Self | None] = PrivateAttr(default_factory=dict)

    def for_run(self, run_name: str) -> Self | None:
        """The rule as it is for a run, or None where it is off for it. The first pattern that matches counts."""
        return overriding(self._overrides, run_name, self)

    @field_validator("name")
    @classmethod
    def _unique_slug(cls, name: str, info: ValidationInfo[Any]) -> str:
        if not _SLUG.fullmatch(name):
            raise ValueError("must be made of letters, digits, - and _ only: it becomes part of a curve's name")
        taken = context_of(info).rule_names
        if name in taken:
            raise ValueError(f"another rule is already named {name!r}; names are unique")
        taken.add(name)
        return name

    @field_validator("metric")
    @classmethod
    def _configured_metric(cls, metric: str, info: ValidationInfo[Any]) -> str:
        context = context_of(info)
        composites = {composite_key(name) for name in context.composites}
        if context.metrics is None or metric in composites or gives(context.metrics, metric):
            return metric
        if metric in catalog.names("metrics"):
            raise ValueError(f"metric {metric!r} is not computed; add it to metrics")
        hint = catalog.did_you_mean(metric, {*context.metrics, *composites})
        raise ValueError(f"unknown metric {quoted(metric)}; {hint}")

    @field_validator("labels")
    @classmethod
    def _usable_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for name, value in labels.items():
            if not _LABEL.fullmatch(name):
                raise ValueError(f"a label's name is made of letters, digits and _ only, which {quoted(name)} is not")
            if name in BUILT_IN_LABELS:
                raise ValueError(f"every alert has a label {name} already; choose another name")
            if not value.isprintable():
                raise ValueError(f"the value of {name} holds a line break or another control character; remove it")
        return labels

    @field_validator("receivers")
    @classmethod
    def _known_receivers(cls, receivers: tuple[str, ...] | None, info: ValidationInfo[Any]) -> tuple[str, ...] | None:
        known = context_of(info).receivers
        for name in receivers or ():
            if known is not None and name not in known:
                shown = [other for other in known if not may_hold_secret(other)]
                hint = catalog.did_you_mean(name, shown) if shown else "notify names nobody yet"
                raise ValueError(f"unknown receiver {quoted(name)}; {hint}")
        return receivers

    @model_validator(mode="wrap")
    @classmethod
    def _with_overrides(cls, given: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo[Any]) -> Self:
        rule = handler(given)
        if isinstance(given, dict) and rule.runs:
            rule._overrides = overridden(  # noqa: SLF001 - its own
                cls, given, keys=keys_of(cls), kinds=_KINDS, context=context_of(info)
            )
        return rule


def _no_percent_forgotten(value: Any) -> Any:
    if isinstance(value, int | float) and value > 1:
        raise ValueError(f"{value:g} is {value * 100:g}%; write {value:g}% or, if you mean it, {value * 100:g}%")
    return value


class MovesRule(BaseRule):
    """Fires when a metric moves by more than a share (moves, 0.1 is 10%) within `across` evaluations."""

    kind: ClassVar[str] = "moves"

    moves: Annotated[Fraction, Field(gt=0), BeforeValidator(_no_percent_forgotten)]
    across: int = Field(ge=2)
    mode: Literal["range", "net", "each"] = "range"
    direction: Literal["any", "worse", "better"] = "any"
    beyond_noise: NoiseMultiple | None = None

    @model_validator(mode="after")
    def _sees_a_jump(self) -> Self:
        if self.mode != "each" and self.in_a_row >= self.across:
            raise ValueError(
                f"for: {self.in_a_row} must be below across: {self.across}: no more than {self.across - 1} windows in "
                "a row show a jump, so that this rule would never fire for one"
            )
        return self


class AboveRule(BaseRule):
    """Fires when a metric is above a bound, in its own unit; with beyond_noise by more than so many standard errors."""

    kind: ClassVar[str] = "above"

    above: Number
    beyond_noise: NoiseMultiple | None = None

    @property
    def bound(self) -> float:
        return self.above


class BelowRule(BaseRule):
    """Fires when a metric is below a bound, in its own unit; with beyond_noise by more than so many standard errors."""

    kind: ClassVar[str] = "below"

    below: Number
    beyond_noise: NoiseMultiple | None = None

    @property
    def bound(self) -> float:
        return self.below


class ZScoreRule(BaseRule):
    """Fires when a metric lies more than z_score robust standard deviations from the median of the `window` before it.

    direction is `worse` unless said otherwise: a metric that improves steadily always lies beyond its own past.
    """

    kind: ClassVar[str] = "z_score"

    z_score: Annotated[Number, Field(gt=0)]
    window: int = Field(default=20, ge=5)
    direction: Literal["any", "worse", "better"] = "worse"


def _with_unit(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # 2 hours, as many mean it, would be 2 seconds; and YAML reads 2:30 as the number 150.
        raise ValueError("needs a unit: 2h, 90m or 1.5h")  # noqa: TRY004 - pydantic takes a ValueError for an answer
    return value


class StaleRule(BaseRule):
    """Fires when a run had no evaluation for a time; with a metric, none that gave a score of it."""

    kind: ClassVar[str] = "stale"

    metric: str = ""
    stale: Annotated[PositiveDuration, BeforeValidator(_with_unit)]

    @field_validator("metric")
    @classmethod
    def _configured_metric(cls, metric: str, info: ValidationInfo[Any]) -> str:
        return super()._configured_metric(metric, info) if metric else metric

    @field_validator("in_a_row", "warmup", "keep_firing", mode="before")
    @classmethod
    def _not_counted(cls, value: Any, info: ValidationInfo[Any]) -> Any:
        if info.field_name is not None and value != cls.model_fields[info.field_name].default:
            raise ValueError("stale looks at time, not at evaluations; remove it")
        return value

    @field_validator("stale")
    @classmethod
    def _as_long_as_a_look(cls, stale: timedelta) -> timedelta:
        if stale < _SHORTEST_STALE:
            raise ValueError("must be at least 1s: the daemon looks once a second")
        return stale


class StateRule(BaseRule):
    """Fires when a metric had no value in `for` evaluations in a row, for one of the reasons in state."""

    kind: ClassVar[str] = "state"

    state: tuple[str, ...] = Field(min_length=1)

    def names(self, state: ScoreState) -> bool:
        """True when a score in this state counts. `any` stands for every state without a value."""
        return state is not ScoreState.OK and (_ANY in self.state or state.value in self.state)

    @field_validator("state", mode="before")
    @classmethod
    def _one_or_more(cls, state: Any) -> Any:
        return (state,) if isinstance(state, str) else state

    @field_validator("state")
    @classmethod
    def _known_states(cls, states: tuple[str, ...]) -> tuple[str, ...]:
        known = [_ANY, *(state.value for state in ScoreState if state is not ScoreState.OK)]
        for state in states:
            if state == ScoreState.OK:
                raise ValueError(f"a score that is ok has a value; known: {', '.join(known)}")
            if state not in known:
                raise ValueError(f"unknown state {quoted(state)}; {catalog.did_you_mean(state, known)}")
        return tuple(sorted(set(states)))


class NonfiniteRule(BaseRule):
    """Fires when a metric was NaN or infinite in `for` evaluations in a row: the same as state: non_finite."""

    kind: ClassVar[str] = "nonfinite"

    nonfinite: bool

    def names(self, state: ScoreState) -> bool:
        """True when a score in this state counts."""
        return state is ScoreState.NON_FINITE

    @field_validator("nonfinite")
    @classmethod
    def _on(cls, nonfinite: bool) -> bool:
        if not nonfinite:
            raise ValueError("false says nothing: remove the rule, or write nonfinite: true")
        return nonfinite


# Those that look at the evaluations of a series, one after the other.
SeriesRule = MovesRule | AboveRule | BelowRule | ZScoreRule | NonfiniteRule | StateRule

# By the key that only one kind of rule has, and must have.
_KINDS: dict[str, type[BaseRule]] = {
    cls.kind: cls for cls in (MovesRule, AboveRule, BelowRule, ZScoreRule, StaleRule, NonfiniteRule, StateRule)
}


def _kind(value: Any) -> str | None:
    """The kind of rule that a mapping means, by its telling key, else by what only one kind could say."""
    if isinstance(value, BaseRule):
        return _tag(value.kind)
    if not isinstance(value, dict):
        # Whatever the kind, it must be a mapping.
        return _tag("moves")
    given = [kind for kind in _KINDS if kind in value]
    if given:
        return _tag(given[0]) if len(given) == 1 else None
    common = Counter(key for cls in _KINDS.values() for key in keys_of(cls))
    for kind, cls in _KINDS.items():
        if any(key in value and common[key] == 1 for key in keys_of(cls)):
            return _tag(kind)
    near = (difflib.get_close_matches(str(key), _KINDS, n=1) for key in value)
    return next((_tag(found[0]) for found in near if found), None)


def keys_of(cls: type[BaseModel]) -> set[str]:
    """The keys that a section may hold in the file."""
    return {item.alias or name for name, item in cls.model_fields.items()}


def _tag(kind: str) -> str:
    # Part of pydantic's locations: it must not look like a key of the file.
    return f"a rule with {kind}"


Rule = Annotated[
    Annotated[MovesRule, Tag("a rule with moves")]
    | Annotated[AboveRule, Tag("a rule with above")]
    | Annotated[BelowRule, Tag("a rule with below")]
    | Annotated[ZScoreRule, Tag("a rule with z_score")]
    | Annotated[StaleRule, Tag("a rule with stale")]
    | Annotated[NonfiniteRule, Tag("a rule with nonfinite")]
    | Annotated[StateRule, Tag("a rule with state")],
    Discriminator(
        _kind,
        custom_error_type="rule_kind",
        custom_error_message=(
            "needs exactly one of moves, above, below, z_score, stale, nonfinite and state: "
            "moves: 10% with across: 5, above: 60, stale: 2h, or state: any; whoever wants two writes two rules"
        ),
    ),
]
