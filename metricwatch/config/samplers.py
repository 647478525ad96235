"""Reads what watch entries say of samplers: the framework's keys, and the plugin's options beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metricwatch import catalog
from metricwatch.api import Need
from metricwatch.config.options import UnusableOptionsError, bind_options, chosen_options
from metricwatch.config.problems import Problem, unknown_key
from metricwatch.config.watching import SamplerConfig
from metricwatch.errors import ConfigError, PluginError

# Fields of SamplerConfig that are no keys of the file.
_WORKED_OUT = frozenset({"options"})
_KEYS = frozenset(SamplerConfig.model_fields) - _WORKED_OUT


@dataclass(slots=True, kw_only=True)
class SamplersRead:
    """The section `watch` with each sampler's options under `options`. What is not well-formed is as it was written."""

    watch: Any
    problems: list[Problem] = field(default_factory=list)


def read_samplers(raw: Any, *, where: str, base: Path) -> SamplersRead:
    """Split the plugins' options from the framework's keys and bind them. Only samplers that are used are imported.

    A sampler's partners are looked for in its entry's pairs. Problems carry their path in the file; `where` is the
    file's name in messages.
    """
    if not isinstance(raw, list):
        return SamplersRead(watch=raw)
    read = SamplersRead(watch=[])
    for position, entry in enumerate(raw):
        sampler = entry.get("sampler") if isinstance(entry, dict) else None
        if isinstance(sampler, str):
            sampler = {"use": sampler}
        if not isinstance(sampler, dict):
            read.watch.append(entry)
            continue
        path = ("watch", position, "sampler")
        given = {str(key): value for key, value in sampler.items()}
        own = {key: value for key, value in given.items() if key in _KEYS}
        others = {key: value for key, value in given.items() if key not in _KEYS}
        try:
            own["options"], needs = _bound(own.get("use"), others, f"{where}: watch[{position}].sampler", base)
            read.problems += [
                Problem(("watch", position, "pairs"), lack) for lack in _lacking(entry, str(own.get("use")), needs)
            ]
        except UnusableOptionsError as error:
            read.problems += [Problem((*path, *problem.path), problem.message) for problem in error.problems]
        except (ConfigError, PluginError) as error:
            read.problems.append(Problem(path, str(error)))
        read.watch.append({**entry, "sampler": own})
    return read


def _bound(use: Any, options: dict[str, Any], where: str, base: Path) -> tuple[dict[str, Any], frozenset[Need]]:
    """The options as the worker is told them, and what a sampler with these needs."""
    # What is no name, or an unknown one, is found with the other keys.
    if not isinstance(use, str) or use not in catalog.names("samplers"):
        return {}, frozenset()
    cls = catalog.load_sampler(use)
    if cls.Options is None:
        if options:
            raise UnusableOptionsError(where, [Problem((key,), unknown_key(key, _KEYS)) for key in options])
        return {}, cls().spec.needs
    if clash := _KEYS & set(getattr(cls.Options, "__dataclass_fields__", {})):
        raise PluginError(f"the options of sampler {use!r} must not be named {', '.join(sorted(clash))}")
    bound = bind_options(cls.Options, options, where, base=base)
    return chosen_options(bound, f"sampler {use!r}"), cls(bound).spec.needs


def _lacking(entry: dict[Any, Any], use: str, needs: frozenset[Need]) -> list[str]:
    """What the sampler needs and the entry does not bring, as one problem or none."""
    pairs = entry.get("pairs")
    given = {key for key, value in pairs.items() if value is not None} if isinstance(pairs, dict) else set()
    lacking = sorted(needs - {"reference"} - given)
    if not lacking or "manifest" in given or (pairs is not None and not isinstance(pairs, dict)):
        return []
    written = ", ".join(f"{kind}: ..." for kind in lacking)
    wanted = " and ".join(lacking)
    return [f"the sampler {use!r} makes samples from {wanted}; write pairs: {{{written}}}, or pairs: {{manifest: ...}}"]
