"""What a composite may say: a score made of other scores."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, PrivateAttr, ValidationInfo, model_validator

from metricwatch import catalog
from metricwatch.config.context import Context, Section, context_of
from metricwatch.config.expressions import PROGRESS, Expression, parse_expression
from metricwatch.config.secrets import quoted
from metricwatch.errors import PluginError

PREFIX = "composite_"

_NAME = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
# MLflow takes 250 characters, of which the prefix of the curves may use 130.
_MAX_NAME = 90
_STDERR = "_stderr"


def composite_key(name: str) -> str:
    """The key of a composite's score."""
    return f"{PREFIX}{name}"


class Composite(Section):
    """A number computed from the scores of one evaluation. Lower is better unless it says otherwise.

    In the file a plain text is an expression. `parsed` is the expression, checked.
    """

    expression: str
    higher_is_better: bool = False
    _parsed: Expression = PrivateAttr()

    @property
    def parsed(self) -> Expression:
        return self._parsed

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"expression": value}
        if not isinstance(value, dict | Composite):
            raise ValueError("must be an expression such as 0.5*fid/100, or a mapping that holds one")  # noqa: TRY004
        return value

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo[Any]) -> Self:
        self._parsed = parse_expression(self.expression)
        context = context_of(info)
        names = self._parsed.names - {PROGRESS}
        for name in sorted(names):
            _refuse_unknown(name, context)
        if not names:
            raise ValueError("names no metric; write for example 0.5*fid/100 + 0.5*(1 - ssim)")
        if PROGRESS in self._parsed.names and context.without_total_steps:
            entries = " and ".join(context.without_total_steps)
            raise ValueError(
                f"{PROGRESS} is step / total_steps, and {entries} says no total_steps; "
                "write run: {name: ..., total_steps: 200000}"
            )
        return self


def _refuse_unknown(name: str, context: Context) -> None:
    if context.metrics is None or gives(context.metrics, name):
        return
    if name in context.composites or name.removeprefix(PREFIX) in context.composites:
        raise ValueError(f"refers to the composite {quoted(name)}; a composite is made of metrics, not of composites")
    if name in catalog.names("metrics"):
        raise ValueError(f"metric {name!r} is not computed; add it to metrics")
    hint = catalog.did_you_mean(name, {*context.metrics, PROGRESS})
    raise ValueError(f"unknown name {quoted(name)}; {hint}")


def gives(metrics: tuple[str, ...], key: str) -> bool:
    """True for the name of one of the metrics, and for a key of its own: gram_style_loss_relu1_1.

    Imports metrics only where no name is the key itself. One that cannot be imported may give anything that begins
    with its name.
    """
    if key in metrics:
        return True
    if key in catalog.names("metrics"):
        return False
    return any(_has_key(name, key) for name in metrics if name in catalog.names("metrics"))


def _has_key(name: str, key: str) -> bool:
    try:
        keys = catalog.load_metric(name).spec.keys
    except PluginError:
        return key.startswith(f"{name}_")
    return key in keys


def _usable_name(name: str, info: ValidationInfo[Any]) -> str:
    context = context_of(info)
    if not _NAME.fullmatch(name):
        raise ValueError("a composite's name must be made of letters, digits and _ only: it becomes part of a key")
    if len(name) > _MAX_NAME:
        raise ValueError(f"a composite's name must have at most {_MAX_NAME} characters")
    if name.endswith(_STDERR) and name.removesuffix(_STDERR) in context.composites:
        raise ValueError(f"is the name of another composite's standard error; end it otherwise than in {_STDERR}")
    if gives(context.metrics or (), composite_key(name)):
        raise ValueError(f"a metric has the key {composite_key(name)!r} already; choose another name")
    return name


CompositeName = Annotated[str, AfterValidator(_usable_name)]
