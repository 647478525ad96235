"""The small pictures that an evaluation leaves beside its scores: samples, samples beside their partners, heat maps.

All of it is best effort: what fails costs a line in the log, never a score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from metricwatch.protocol import Evaluate, Looking
from metricwatch.records import Compared, KeptSample, Look, Lookalike
from metricwatch.worker.batches import LoadedBatch, is_no_room
from metricwatch.worker.device_state import DeviceLostError, is_lost
from metricwatch.worker.heat import Heat, find_heat
from metricwatch.worker.loading import Extractors
from metricwatch.worker.log import LogLine, log_failure, one_line
from metricwatch.worker.look_choice import Chosen, choose, shown_names
from metricwatch.worker.look_folder import LookFolder, UnwritableError
from metricwatch.worker.lookalikes import LookalikeSearch
from metricwatch.worker.pipeline import Pipeline
from metricwatch.worker.plan import PARTNER_KINDS, Item, Plan, Role
from metricwatch.worker.sample_plan import SamplePlan
from metricwatch.worker.samples import SampleSet
from metricwatch.worker.scoring import Scoring

# A picture that is kept for the end of the pass, where something is still to be made of it; a larger one is read anew.
_MOST_HELD_PIXELS = 4_000_000


@dataclass(slots=True, kw_only=True)
class _Seen:
    """A chosen sample and what is left of it so far: its files by role, and its heat.

    item gets the pictures that are at hand. met: it was in a batch, so it can be read. size is that of its small
    picture.
    """

    chosen: Chosen
    item: Item
    met: bool = False
    size: tuple[int, int] = (0, 0)
    files: dict[Role, str]
    heat: str = ""
    heat_mean: float | None = None


def onlooker_for(
    request: Evaluate,
    items: Sequence[Item],
    source: SampleSet | SamplePlan,
    scorings: Sequence[Scoring],
    *,
    pipeline: Pipeline,
    extractors: Extractors,
    context: bytes,
    log: LogLine,
    search: LookalikeSearch | None = None,
) -> Onlooker | None:
    """Who looks at the items of this evaluation; None where nobody asked, or it cannot be. Raises DeviceLostError."""
    looking = request.look
    if looking is None:
        return None
    try:
        return Onlooker(
            looking,
            choose(request, items, source),
            lambda: find_heat(looking.heat, scorings, request.options, extractors, context),
            pipeline=pipeline,
            log=log,
            search=search,
            named=lambda: zip(shown_names(request, items), items, strict=True),
        )
    except Exception as error:  # noqa: BLE001 - none of it is worth a score
        _note(log, error)
        return None


class Onlooker:
    """Looks at one evaluation: made() at each lot of a sampler, see() at each batch, finish() once at the end.

    Raises nothing but DeviceLostError.
    """

    def __init__(
        self,
        looking: Looking,
        chosen: Sequence[Chosen],
        find_heat: Callable[[], Heat],
        *,
        pipeline: Pipeline,
        log: LogLine,
        search: LookalikeSearch | None = None,
        named: Callable[[], Iterable[tuple[str, Item]]] = tuple,
    ) -> None:
        self._folder = LookFolder(looking.folder, looking.side)
        self._pipeline = pipeline
        self._log = log
        self._search = search
        self._named = named
        self._lookalikes: tuple[Lookalike, ...] = ()
        self._seen = [_Seen(chosen=each, item=each.item, files={}) for each in chosen]
        self._by_name = {each.item.name: each for each in self._seen if each.chosen.alone}
        self._given_up = False
        self._heat: Heat | None = None
        if looking.heat != "none" and any("content" in each.item.partners for each in self._seen):
            self._guarded(lambda: self._take_heat(find_heat()))

    def made(self, lot: Sequence[Item]) -> None:
        """Samples that a sampler has just made, with the pictures that it made them from."""
        for item in lot:
            seen = self._by_name.get(item.name)
            if seen and seen.chosen.compared:
                seen.item = replace(seen.item, loaded=item.loaded)

    def see(self, batch: LoadedBatch) -> None:
        """Look at a batch after the metrics have. Nothing of it is changed."""
        if self._search and not self._given_up:
            self._search.see(batch)
        self._see_chosen(batch)

    def _see_chosen(self, batch: LoadedBatch) -> None:
        rows = {row: seen for row, name in enumerate(batch.names) if (seen := self._by_name.get(name))}
        if rows and not self._given_up:
            self._guarded(lambda: self._see(batch, rows))

    def finish(self) -> Look | None:
        """What is left of the evaluation, or None where there is nothing to see.

        First what no metric had to look at is made up for: pictures whose features were known, partners, maps.
        """
        if not self._given_up:
            self._make_up()
        if self._search and not self._given_up:
            self._guarded(partial(self._show_lookalikes, self._search))
        if self._given_up:
            self._folder.clear()
            return None
        shown = [seen for seen in self._seen if "image" in seen.files]
        if not (shown or self._lookalikes):
            return None
        hot = self._heat if any(seen.heat for seen in shown) else None
        search = self._search if self._lookalikes else None
        return Look(
            samples=tuple(KeptSample(name=seen.chosen.name, path=seen.files["image"]) for seen in shown),
            compared=tuple(
                Compared(
                    name=seen.chosen.name,
                    image=seen.files["image"],
                    content=seen.files.get("content", ""),
                    style=seen.files.get("style", ""),
                    heat=seen.heat,
                    heat_mean=seen.heat_mean,
                )
                for seen in shown
                if seen.chosen.compared
            ),
            heat_of=hot.name if hot else "",
            heat_most=hot.most if hot else 1.0,
            lookalikes=self._lookalikes,
            space=search.space if search else "",
            searched=search.searched if search else 0,
            usual_distance=search.usual_distance if search else None,
        )

    def _show_lookalikes(self, search: LookalikeSearch) -> None:
        self._lookalikes = search.show(self._folder, self._named())

    def _take_heat(self, heat: Heat) -> None:
        self._heat = heat

    def _see(self, batch: LoadedBatch, rows: dict[int, _Seen]) -> None:
        for row, seen in rows.items():
            seen.met = True
            if batch.images and "image" not in seen.files:
                image = batch.images[row]
                seen.size = self._folder.size(int(image.shape[-2]), int(image.shape[-1]))
                seen.files["image"] = self._folder.picture(image, seen.size)
            for kind in PARTNER_KINDS if seen.chosen.compared and batch.images else ():
                if kind in batch.partners and kind not in seen.files:
                    seen.files[kind] = self._folder.picture(batch.partners[kind][row], seen.size)  # type: ignore[index]
        self._guarded(lambda: self._warm(batch, {row: seen for row, seen in rows.items() if self._lacks_heat(seen)}))
        for row, seen in rows.items():
            done = not (self._lacks_heat(seen) or self._lacks_pictures(seen))
            if done:
                seen.item = replace(seen.item, loaded={})
            elif batch.images and batch.images[row][0].numel() <= _MOST_HELD_PIXELS and not seen.item.loaded:
                # A copy: it is a view of all its batch.
                seen.item = replace(seen.item, loaded={"image": batch.images[row].permute(1, 2, 0).clone()})

    def _warm(self, batch: LoadedBatch, rows: dict[int, _Seen]) -> None:
        if not rows or self._heat is None or not self._heat.at_hand(batch):
            return
        maps = self._heat.maps(batch.select(list(rows)))
        for place, seen in enumerate(rows.values()):
            if place in maps:
                seen.heat = self._folder.heat(maps[place], self._heat.most, seen.size)
                seen.heat_mean = float(maps[place].double().mean())

    def _lacks_heat(self, seen: _Seen) -> bool:
        heat = self._heat
        if heat is None or not seen.chosen.compared or seen.heat:
            return False
        return all(kind == "prompt" or kind in seen.item.partners for kind in heat.kinds)

    def _lacks_pictures(self, seen: _Seen) -> bool:
        return "image" not in seen.files or any(kind not in seen.files for kind in seen.item.partners)

    def _make_up(self) -> None:
        # What the pass has left out has been told already; of files that share a name nobody knows yet.
        left = [seen for seen in self._seen if seen.met or not seen.chosen.alone]
        cold = [seen for seen in left if self._lacks_heat(seen)]
        if self._heat:
            self._guarded(partial(self._pass, cold, self._heat.plan()))
        pictures = Plan(pixels=frozenset(("image", "content", "style")))
        self._guarded(lambda: self._pass([seen for seen in left if self._lacks_pictures(seen)], pictures))

    def _pass(self, lacking: Sequence[_Seen], plan: Plan) -> None:
        # Under a name of its own each: files may share one.
        self._by_name = {f"{place}": seen for place, seen in enumerate(lacking)}
        items = [replace(seen.item, name=name) for name, seen in self._by_name.items()]
        if not items:
            return
        failed: dict[str, Exception] = {}
        batches = self._pipeline.run(items, plan, skip=self._skip, advance=lambda _: None, patient=False)
        for batch in batches:
            self._see_chosen(batch)
            failed.update(batch.failed)
            for name in batch.names:
                # The others have been told: they are not tried again.
                seen = self._by_name[name]
                usable = {kind: path for kind, path in seen.item.partners.items() if kind in batch.kinds}
                seen.item = replace(seen.item, partners=usable)
        for error in failed.values():
            _note(self._log, error)

    def _skip(self, path: str, reason: str) -> None:
        self._log("warning", "look failed", path=one_line(path), reason=one_line(reason))

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and none of it is worth a score
            self._given_up = self._given_up or isinstance(error, UnwritableError)
            _note(self._log, error)


def _note(log: LogLine, error: Exception) -> None:
    if is_lost(error):
        raise DeviceLostError(f"looking at samples: {error}") from error
    if is_no_room(error) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    log_failure(log, "look failed", error)
