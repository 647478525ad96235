"""What a rule may say. The keys of a rule tell its kind: moves, or state."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationInfo, field_validator

from metricwatch import catalog
from metricwatch.config.composites import composite_key, gives
from metricwatch.config.context import Section, context_of
from metricwatch.config.quantities import Fraction
from metricwatch.config.secrets import may_hold_secret, quoted
from metricwatch.records import ScoreState, Severity

_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)
_ANY = "any"


class Message(Section):
    """Templates (Jinja) that replace the words of a rule's messages; None: ours."""

    title: str | None = None
    text: str | None = None


class BaseRule(Section):
    """What every rule says. receivers None: those that the routes say.

    in_a_row evaluations must agree before it fires; the first `warmup` evaluations of a run are not looked at; when the
    condition is over it goes on firing for keep_firing evaluations. severity None: critical for the worse, info for the
    better. labels are added to those that every alert has, for routes and silences.
    """

    name: str
    metric: str
    in_a_row: int = Field(default=1, ge=1, alias="for")
    warmup: int = Field(default=0, ge=0)
    keep_firing: int = Field(default=0, ge=0)
    severity: Severity | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    message: Message = Field(default_factory=Message)
    receivers: tuple[str, ...] | None = None

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


class MovesRule(BaseRule):
    """Fires when a metric moves by more than a share (moves, 0.1 is 10%) within `across` evaluations."""

    moves: Annotated[Fraction, Field(gt=0)]
    across: int = Field(ge=2)
    mode: Literal["range", "net", "each"] = "range"
    direction: Literal["any", "worse", "better"] = "any"
    beyond_noise: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class StateRule(BaseRule):
    """Fires when a metric had no value in `for` evaluations in a row, for one of the reasons in state."""

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


# The key that only one kind of rule has, and must have.
_KINDS: dict[str, type[BaseRule]] = {"moves": MovesRule, "state": StateRule}


def _kind(value: Any) -> str | None:
    """The kind of rule that a mapping means, by its telling key, else by what only one kind could say."""
    if isinstance(value, BaseModel):
        return next((_tag(key) for key, cls in _KINDS.items() if isinstance(value, cls)), None)
    if not isinstance(value, dict):
        # Whatever the kind, it must be a mapping.
        return _tag("moves")
    given = [key for key in _KINDS if key in value]
    if given:
        return _tag(given[0]) if len(given) == 1 else None
    for kind, cls in _KINDS.items():
        if any(key in value for key in keys_of(cls) - keys_of(BaseRule)):
            return _tag(kind)
    near = (difflib.get_close_matches(str(key), _KINDS, n=1) for key in value)
    return next((_tag(found[0]) for found in near if found), None)


def keys_of(cls: type[BaseModel]) -> set[str]:
    """The keys that a section may hold in the file."""
    return {item.alias or name for name, item in cls.model_fields.items()}


def _tag(key: str) -> str:
    # Part of pydantic's locations: it must not look like a key of the file.
    return f"a rule with {key}"


Rule = Annotated[
    Annotated[MovesRule, Tag("a rule with moves")] | Annotated[StateRule, Tag("a rule with state")],
    Discriminator(
        _kind,
        custom_error_type="rule_kind",
        custom_error_message=(
            "needs exactly one of moves and state: moves: 10% with across: 5, or state: any; "
            "whoever wants both writes two rules"
        ),
    ),
]
