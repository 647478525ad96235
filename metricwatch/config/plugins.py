"""Reads the sections whose keys are names of one's own choice and whose values use a plugin: `notify` and `sinks`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import field_serializer

from metricwatch import catalog
from metricwatch.api import Secret
from metricwatch.config.context import Section, refuse_strange_text
from metricwatch.config.options import UnusableOptionsError, bind_options
from metricwatch.config.problems import Problem
from metricwatch.config.secrets import may_hold_secret, quoted, redact_uri
from metricwatch.errors import PluginError

Used = Literal["notifiers", "sinks"]


class PluginConfig(Section):
    """A named use of a plugin, with that plugin's Options. Dumps show no secret."""

    name: str
    use: str
    options: Any = None

    @field_serializer("options")
    def _dump_options(self, options: Any) -> Any:
        if not dataclasses.is_dataclass(options) or isinstance(options, type):
            return None if options is None else str(options)
        values = {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}
        return {name: _shown(value) for name, value in values.items()}

    def __repr_args__(self) -> Any:
        return [("name", self.name), ("use", self.use), ("options", self._dump_options(self.options))]


def _shown(value: Any) -> Any:
    """An option as it may be shown: an address may hold a user and a password."""
    if isinstance(value, Secret):
        return str(value)
    return redact_uri(value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """How messages speak of a section."""

    section: str
    one: str
    plugin: str
    shape: str
    where_else: str


_WORDS: dict[Used, _Words] = {
    "notifiers": _Words(
        section="notify",
        one="receiver",
        plugin="notifier",
        shape="must be a mapping of receiver names to notifiers",
        where_else="a receiver's name must not be an address; choose a name and write the address in its options",
    ),
    "sinks": _Words(
        section="sinks",
        one="sink",
        plugin="sink",
        shape="must be a mapping of names to sinks",
        where_else="a sink's name must not be an address; choose a name and write the address in its options",
    ),
}


def read_plugins(
    kind: Used, raw: Any, *, where: str, base: Path, taken: Mapping[str, str] | None = None
) -> tuple[dict[str, PluginConfig], list[Problem]]:
    """What of a section is well-formed, and what is wrong with the rest. Only plugins that are used are imported.

    where is the file's name in messages; taken are names that may not be used, each with the reason.
    """
    words = _WORDS[kind]
    if not isinstance(raw, dict):
        return {}, [Problem((words.section,), words.shape)]
    built: dict[str, PluginConfig] = {}
    problems: list[Problem] = []
    for key, value in raw.items():
        name = str(key)
        path = (words.section, name)
        if complaint := _unusable(name, value, words) or (taken or {}).get(name):
            problems.append(Problem(path, complaint))
            continue
        use = value.get("use")
        options = {option: content for option, content in value.items() if option != "use"}
        if not isinstance(use, str):
            known = ", ".join(catalog.names(kind))
            problems.append(Problem((*path, "use"), f"required: the {words.plugin} to use; known: {known}"))
            continue
        if use not in (installed := catalog.names(kind)):
            hint = catalog.did_you_mean(use, installed)
            problems.append(Problem((*path, "use"), f"unknown {words.plugin} {quoted(use)}; {hint}"))
            continue
        try:
            bound = bind_options(_options(kind, use), options, f"{where}: {words.section}.{name}", base=base)
        except UnusableOptionsError as error:
            problems += [Problem((*path, *problem.path), problem.message) for problem in error.problems]
        except PluginError as error:
            problems.append(Problem((*path, "use"), str(error)))
        else:
            built[name] = PluginConfig(name=name, use=use, options=bound)
    return built, problems


def _options(kind: Used, use: str) -> type[Any]:
    return catalog.load_notifier(use).Options if kind == "notifiers" else catalog.load_sink(use).Options


def _unusable(name: str, raw: Any, words: _Words) -> str | None:
    """Why this cannot be a use of a plugin at all."""
    if not isinstance(raw, dict):
        return f"must be a mapping with use: and the {words.plugin}'s options"
    if not name.strip():
        return f"the name of a {words.one} must not be empty"
    # Its name is shown in many places and kept in the ledger.
    if may_hold_secret(name):
        return words.where_else
    try:
        refuse_strange_text(name)
    except ValueError as error:
        return str(error)
    return None
