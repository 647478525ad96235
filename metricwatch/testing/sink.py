"""The contract of sinks, as tests that a plugin's author inherits.

    class TestMySink(SinkContract):
        sink = MySink

        @pytest.fixture
        def options(self, server): return MySink.Options(url=server.url)

        @pytest.fixture
        def unreachable_options(self): return MySink.Options(url="http://127.0.0.1:1")

        @pytest.fixture
        def stored(self, server): return lambda run_id: server.read_points(run_id)

        @pytest.fixture
        def stored_tags(self, server): return lambda run_id: server.read_tags(run_id)

A sink that takes pictures has two more to override:

        @pytest.fixture
        def stored_pictures(self, server): return lambda run_id: server.read_pictures(run_id)

        @pytest.fixture
        def delete_run(self, server): return lambda run_id: server.delete(run_id)

One that takes pages overrides delete_run and

        @pytest.fixture
        def stored_page(self, server): return lambda run_id, name: server.read_file(run_id, name)

The server should be a real one on the loopback interface, kept from test to test: every test uses runs of its
own. Needs pytest; for telling failures put pytest.register_assert_rewrite("metricwatch.testing") into conftest.py.
"""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import dataclasses
import inspect
import io
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from metricwatch.api import PermanentError, Picture, Point, RemoteRun, Run, RunGoneError, Sink, TemporaryError
from metricwatch.testing import samples

Stored = Callable[[str], Sequence[Point]]
StoredTags = Callable[[str], Mapping[str, str]]
StoredPictures = Callable[[str], Sequence[tuple[str, int, bytes]]]
StoredPage = Callable[[str, str], bytes]


class SinkContract:
    """Set `sink` and override the fixtures options, unreachable_options, stored and stored_tags.

    stored and stored_tags read back what the other side holds of one run, by any way but the sink itself. So does
    stored_pictures, for a sink that takes pictures: each picture's key, step and PNG file; and stored_page, for one
    that takes pages: a page's content. delete_run deletes a run.
    `secrets` are the texts in unreachable_options that may appear nowhere.
    """

    sink: ClassVar[type[Sink]]
    secrets: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def options(self) -> Any:
        raise NotImplementedError("override the fixture options")

    @pytest.fixture
    def unreachable_options(self) -> Any:
        raise NotImplementedError("override the fixture unreachable_options")

    @pytest.fixture
    def stored(self) -> Stored:
        raise NotImplementedError("override the fixture stored")

    @pytest.fixture
    def stored_tags(self) -> StoredTags:
        raise NotImplementedError("override the fixture stored_tags")

    @pytest.fixture
    def stored_pictures(self) -> StoredPictures:
        raise NotImplementedError("override the fixture stored_pictures")

    @pytest.fixture
    def stored_page(self) -> StoredPage:
        raise NotImplementedError("override the fixture stored_page")

    @pytest.fixture
    def delete_run(self) -> Callable[[str], None]:
        raise NotImplementedError("override the fixture delete_run")

    @pytest.fixture
    def takes_pictures(self) -> None:
        if not self.sink.takes_pictures:
            pytest.skip("this sink takes no pictures")

    @pytest.fixture
    def takes_pages(self) -> None:
        if not self.sink.takes_pages:
            pytest.skip("this sink takes no pages")

    @pytest.fixture
    def can_be_read(self) -> None:
        if self.sink.keys is Sink.keys:
            pytest.skip("the curves of this sink cannot be read")

    @pytest.fixture
    def pictures_can_be_read(self) -> None:
        if self.sink.pictures is Sink.pictures:
            pytest.skip("the pictures of this sink cannot be read")

    @pytest.fixture
    def opened(self, options: Any) -> Iterator[Sink]:
        made = self.sink(options)
        yield made
        made.close()

    @pytest.fixture
    def by_name(self) -> Run:
        return samples.run(key=f"key-{uuid.uuid4().hex}", name=f"name-{uuid.uuid4().hex}")

    @pytest.fixture
    def remote(self, opened: Sink, by_name: Run) -> RemoteRun:
        return opened.find_run(by_name)

    def test_is_a_concrete_sink_with_frozen_options(self, options: Any) -> None:
        assert issubclass(self.sink, Sink)
        assert not inspect.isabstract(self.sink)
        assert isinstance(options, self.sink.Options)
        name = dataclasses.fields(options)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(options, name, getattr(options, name))

    def test_a_sign_of_life_is_one_line(self, opened: Sink) -> None:
        line = opened.ping()
        assert line.strip()
        assert "\n" not in line

    # --- find_run ------------------------------------------------------------------------------------------

    def test_the_same_name_finds_the_same_run(self, opened: Sink, by_name: Run, remote: RemoteRun) -> None:
        assert opened.find_run(by_name) == remote

    def test_another_process_finds_the_same_run(self, options: Any, by_name: Run, remote: RemoteRun) -> None:
        other = self.sink(options)
        assert other.find_run(by_name) == remote
        other.close()

    def test_two_runs_of_one_name_but_different_keys_are_two_runs(
        self, opened: Sink, by_name: Run, remote: RemoteRun
    ) -> None:
        twin = dataclasses.replace(by_name, key=f"{by_name.key}-twin")
        assert opened.find_run(twin).id != remote.id

    @pytest.mark.parametrize(
        "name", ["it's", 'say "cheese"', "both ' and \"", "a\\", "100% _done_", "schöne 画像", "; --"]
    )
    def test_any_name_can_be_found_again(self, opened: Sink, by_name: Run, name: str) -> None:
        awkward = dataclasses.replace(by_name, key=f"{name}{by_name.key}", name=f"{name}{by_name.name}{name}")
        assert opened.find_run(awkward) == opened.find_run(awkward)

    def test_an_id_finds_its_run(self, opened: Sink, by_name: Run, remote: RemoteRun) -> None:
        assert opened.find_run(dataclasses.replace(by_name, id=remote.id)) == remote

    def test_an_unknown_id_is_a_permanent_error_that_names_it(self, opened: Sink, by_name: Run) -> None:
        unknown = uuid.uuid4().hex
        with pytest.raises(PermanentError, match=unknown):
            opened.find_run(dataclasses.replace(by_name, id=unknown))

    def test_an_id_file_may_be_written_later(
        self, opened: Sink, by_name: Run, remote: RemoteRun, tmp_path: Path
    ) -> None:
        file = tmp_path / "run_id"
        wanted = dataclasses.replace(by_name, id_file=str(file))
        with pytest.raises(TemporaryError, match="not written yet"):
            opened.find_run(wanted)
        file.write_text(" \n")
        with pytest.raises(TemporaryError, match="not written yet"):
            opened.find_run(wanted)
        file.write_text(f"  {remote.id}\n")
        assert opened.find_run(wanted) == remote

    def test_an_id_file_with_something_else_is_a_permanent_error(
        self, opened: Sink, by_name: Run, tmp_path: Path
    ) -> None:
        file = tmp_path / "run_id"
        file.write_text("not an id: ../../etc\n")
        with pytest.raises(PermanentError, match="run_id"):
            opened.find_run(dataclasses.replace(by_name, id_file=str(file)))

    # --- write ---------------------------------------------------------------------------------------------

    def test_points_are_kept_verbatim(self, opened: Sink, remote: RemoteRun, stored: Stored) -> None:
        awkward = (0.1 + 0.2, 1e-300, -0.0, 123456789.123456789, 5e-324, -1.7e308)
        sent = [
            Point(key="quality/fid", value=value, timestamp_ms=1_760_000_000_000 + index, step=2**40 + index)
            for index, value in enumerate(awkward)
        ]
        opened.write(remote.id, sent, {})
        assert _sorted(stored(remote.id)) == _sorted(sent)

    def test_a_repeat_leaves_one_copy(self, opened: Sink, remote: RemoteRun, stored: Stored) -> None:
        sent = samples.points(20)
        for _ in range(3):
            opened.write(remote.id, sent, {"metricwatch.tag": "same"})
        assert _sorted(stored(remote.id)) == _sorted(sent)

    def test_a_repeat_in_other_portions_leaves_one_copy(self, opened: Sink, remote: RemoteRun, stored: Stored) -> None:
        sent = samples.points(20)
        for portion in (sent[:12], sent[8:], sent, sent[5:6], sent + sent):
            opened.write(remote.id, portion, {})
        assert _sorted(stored(remote.id)) == _sorted(sent)

    def test_a_step_scored_again_keeps_both_rows(self, opened: Sink, remote: RemoteRun, stored: Stored) -> None:
        (first,) = samples.points(1)
        second = dataclasses.replace(first, value=first.value + 1, timestamp_ms=first.timestamp_ms + 60_000)
        opened.write(remote.id, [first], {})
        opened.write(remote.id, [second], {})
        assert _sorted(stored(remote.id)) == _sorted([first, second])

    def test_a_backlog_is_written_whole(self, opened: Sink, remote: RemoteRun, stored: Stored) -> None:
        sent = samples.points(2345)
        opened.write(remote.id, sent, {})
        assert _sorted(stored(remote.id)) == _sorted(sent)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_not_finite_is_refused_whole(
        self, opened: Sink, remote: RemoteRun, stored: Stored, value: float
    ) -> None:
        good, bad = samples.points(2)
        with pytest.raises(PermanentError, match=r"quality/fid.*2000"):
            opened.write(remote.id, [good, dataclasses.replace(bad, value=value)], {})
        assert list(stored(remote.id)) == []

    def test_tags_are_kept_and_replaced(self, opened: Sink, remote: RemoteRun, stored_tags: StoredTags) -> None:
        opened.write(remote.id, [], {"metricwatch.state": "first", "metricwatch.other": "kept"})
        opened.write(remote.id, samples.points(1), {"metricwatch.state": "second"})
        tags = stored_tags(remote.id)
        assert tags["metricwatch.state"] == "second"
        assert tags["metricwatch.other"] == "kept"

    def test_a_tag_of_any_length_is_taken(self, opened: Sink, remote: RemoteRun, stored_tags: StoredTags) -> None:
        opened.write(remote.id, [], {"metricwatch.long": "é" * 100_000})
        assert stored_tags(remote.id)["metricwatch.long"].startswith("éééé")

    def test_writing_nothing_is_no_error(self, opened: Sink, remote: RemoteRun, stored: Stored) -> None:
        opened.write(remote.id, [], {})
        assert list(stored(remote.id)) == []

    def test_writing_to_an_unknown_run_is_a_permanent_error(self, opened: Sink) -> None:
        with pytest.raises(PermanentError):
            opened.write(uuid.uuid4().hex, samples.points(1), {})

    # --- write_picture -------------------------------------------------------------------------------------

    @pytest.mark.usefixtures("takes_pictures")
    def test_the_same_picture_twice_is_one(
        self, options: Any, opened: Sink, remote: RemoteRun, stored_pictures: StoredPictures
    ) -> None:
        picture, png = Picture(key="quality/samples/0007", step=1000, timestamp_ms=1_760_000_000_123), _png(7)
        opened.write_picture(remote.id, picture, png)
        opened.write_picture(remote.id, picture, png)
        other = self.sink(options)
        other.write_picture(remote.id, picture, png)
        other.close()
        assert list(stored_pictures(remote.id)) == [("quality/samples/0007", 1000, png)]

    @pytest.mark.usefixtures("takes_pictures")
    def test_every_step_of_every_picture_is_kept_as_it_is(
        self, opened: Sink, remote: RemoteRun, stored_pictures: StoredPictures
    ) -> None:
        sent = [("quality/samples/a", 0), ("quality/samples/a", 2**40), ("quality/samples/b", 2**40), ("c d_e-f.g", 5)]
        expected = [(key, step, _png(number)) for number, (key, step) in enumerate(sent)]
        for key, step, png in expected:
            opened.write_picture(remote.id, Picture(key=key, step=step, timestamp_ms=1_760_000_000_000), png)
        assert sorted(stored_pictures(remote.id)) == sorted(expected)

    @pytest.mark.usefixtures("takes_pictures")
    def test_no_key_is_taken_for_another(
        self, opened: Sink, remote: RemoteRun, stored_pictures: StoredPictures
    ) -> None:
        keys = ["a_b", "a+b", "a%b", "ä", "ö", "a/../b", "..", "x" * 300, "x" * 300 + "y", 'say "cheese": #1']
        for number, key in enumerate(keys):
            opened.write_picture(remote.id, Picture(key=key, step=1, timestamp_ms=1_760_000_000_000), _png(number))
        kept = stored_pictures(remote.id)
        assert len({key for key, _, _ in kept}) == len(keys)
        assert {png for _, _, png in kept} == {_png(number) for number in range(len(keys))}

    @pytest.mark.usefixtures("takes_pictures")
    @pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", "cut"])
    def test_what_is_no_picture_is_refused_whole(
        self, opened: Sink, remote: RemoteRun, stored_pictures: StoredPictures, content: bytes | str
    ) -> None:
        png = content if isinstance(content, bytes) else _png(1)[:-40]
        with pytest.raises(PermanentError, match="broken"):
            opened.write_picture(remote.id, Picture(key="broken", step=1, timestamp_ms=1), png)
        assert list(stored_pictures(remote.id)) == []

    @pytest.mark.usefixtures("takes_pictures")
    def test_a_picture_for_a_run_that_is_deleted_or_unknown_can_wait(
        self, opened: Sink, remote: RemoteRun, delete_run: Callable[[str], None]
    ) -> None:
        picture = Picture(key="a", step=1, timestamp_ms=1)
        opened.write_picture(remote.id, picture, _png(1))
        delete_run(remote.id)
        for run_id in (remote.id, uuid.uuid4().hex):
            with pytest.raises(RunGoneError):
                opened.write_picture(run_id, dataclasses.replace(picture, step=2), _png(1))

    @pytest.mark.usefixtures("takes_pictures")
    def test_nobody_there_is_a_temporary_error_for_pictures_too(self, unreachable_options: Any) -> None:
        made = self.sink(unreachable_options)
        with pytest.raises(TemporaryError) as raised:
            made.write_picture(uuid.uuid4().hex, Picture(key="a", step=1, timestamp_ms=1), _png(1))
        shown = f"{raised.value!r} {raised.value}"
        assert not [secret for secret in self.secrets if secret in shown]
        made.close()

    # --- write_page ----------------------------------------------------------------------------------------

    @pytest.mark.usefixtures("takes_pages")
    def test_a_page_takes_the_place_of_the_one_before(
        self, opened: Sink, by_name: Run, remote: RemoteRun, stored_page: StoredPage
    ) -> None:
        other = opened.find_run(dataclasses.replace(by_name, key=f"{by_name.key}-other", name=f"{by_name.name}-other"))
        pages = [b"<p>first, and a little longer</p>", "<p>é 画像</p>".encode()]
        opened.write_page(other.id, "alerts.html", b"another run's")
        for content in (pages[0], pages[0], pages[1]):
            opened.write_page(remote.id, "alerts.html", content)
            assert stored_page(remote.id, "alerts.html") == content
        assert stored_page(other.id, "alerts.html") == b"another run's"

    @pytest.mark.usefixtures("takes_pages")
    def test_a_page_for_a_run_that_is_deleted_or_unknown_is_told_apart(
        self, opened: Sink, remote: RemoteRun, delete_run: Callable[[str], None]
    ) -> None:
        delete_run(remote.id)
        for run_id in (remote.id, uuid.uuid4().hex):
            with pytest.raises(RunGoneError):
                opened.write_page(run_id, "alerts.html", b"page")

    @pytest.mark.usefixtures("takes_pages")
    def test_nobody_there_is_a_temporary_error_for_pages_too(self, unreachable_options: Any) -> None:
        made = self.sink(unreachable_options)
        with pytest.raises(TemporaryError) as raised:
            made.write_page(uuid.uuid4().hex, "alerts.html", b"page")
        shown = f"{raised.value!r} {raised.value}"
        assert not [secret for secret in self.secrets if secret in shown]
        made.close()

    # --- reading -------------------------------------------------------------------------------------------

    @pytest.mark.usefixtures("can_be_read")
    def test_what_was_written_can_be_read_whole_and_in_pages(self, opened: Sink, remote: RemoteRun) -> None:
        sent = samples.points(5432)
        opened.write(remote.id, sent, {})
        (key,) = {point.key for point in sent}
        assert list(opened.keys(remote.id)) == [key]
        whole = opened.read(remote.id, key)
        assert list(whole) == sorted(sent, key=lambda point: (point.timestamp_ms, point.step))
        pages = [list(page) for page in opened.read_pages(remote.id, key)]
        assert _sorted([point for page in pages for point in page]) == _sorted(sent)
        assert list(opened.read_pages(remote.id, "no/such/key")) in ([], [[]])

    @pytest.mark.usefixtures("can_be_read")
    def test_the_facts_of_a_run_are_its_name_and_tags(self, opened: Sink, by_name: Run, remote: RemoteRun) -> None:
        opened.write(remote.id, [], {"metricwatch.state": "first"})
        facts = opened.facts(remote.id)
        assert (facts.id, facts.name, facts.url) == (remote.id, by_name.name, remote.url)
        assert opened.run_name(remote.id) == by_name.name
        assert facts.tags["metricwatch.state"] == "first"

    @pytest.mark.usefixtures("can_be_read")
    def test_a_run_that_is_not_there_is_told_apart_on_reading(self, opened: Sink) -> None:
        unknown = uuid.uuid4().hex
        for call in (opened.facts, opened.keys, lambda run_id: list(opened.read_pages(run_id, "a"))):
            with pytest.raises(RunGoneError):
                call(unknown)

    @pytest.mark.usefixtures("takes_pictures", "pictures_can_be_read")
    def test_pictures_can_be_found_and_read(self, opened: Sink, remote: RemoteRun) -> None:
        assert list(opened.pictures(remote.id)) == []
        sent = [("quality/samples/a", 2**40), ("quality/samples/a", 0), ("quality/b_c-d.e f", 7)]
        for number, (key, step) in enumerate(sent):
            opened.write_picture(remote.id, Picture(key=key, step=step, timestamp_ms=1_760_000_000_000), _png(number))
        found = opened.pictures(remote.id)
        assert [(each.key, each.step, each.timestamp_ms) for each in found] == [
            (key, step, 1_760_000_000_000) for key, step in sorted(sent, key=lambda item: item[1])
        ]
        read = {(each.key, each.step): opened.read_picture(remote.id, each) for each in found}
        assert read == {sent[number]: _png(number) for number in range(len(sent))}

    @pytest.mark.usefixtures("takes_pictures", "pictures_can_be_read")
    def test_a_picture_that_is_not_there_is_a_permanent_error(self, opened: Sink, remote: RemoteRun) -> None:
        opened.write_picture(remote.id, Picture(key="a", step=1, timestamp_ms=1), _png(1))
        (found,) = opened.pictures(remote.id)
        for place in (found.place.replace("step", "stop"), found.place[:-12] + "00000000.png", "../../etc/passwd", ""):
            with pytest.raises(PermanentError):
                opened.read_picture(remote.id, dataclasses.replace(found, place=place))

    def test_a_run_that_has_just_been_made_is_not_over(self, opened: Sink, remote: RemoteRun) -> None:
        assert opened.ended(remote.id) is False

    # --- nobody there --------------------------------------------------------------------------------------

    def test_nobody_there_is_a_temporary_error_without_secrets(self, unreachable_options: Any, by_name: Run) -> None:
        made = self.sink(unreachable_options)
        for call in (
            made.ping,
            lambda: made.find_run(by_name),
            lambda: made.write(uuid.uuid4().hex, samples.points(1), {}),
        ):
            with pytest.raises(TemporaryError) as raised:
                call()
            shown = f"{raised.value!r} {raised.value}"
            assert not [secret for secret in self.secrets if secret in shown]
        made.close()

    def test_it_works_again_after_close(self, opened: Sink, by_name: Run, remote: RemoteRun) -> None:
        opened.close()
        opened.close()
        assert opened.find_run(by_name) == remote


def _sorted(points: Sequence[Point]) -> list[Point]:
    return sorted(points, key=lambda point: (point.key, point.step, point.timestamp_ms, point.value))


def _png(number: int) -> bytes:
    """A small picture of stripes; another one for each number."""
    from PIL import Image

    image = Image.new("RGB", (48, 32))
    image.putdata([((x * (number + 3)) % 256, (y * 8) % 256, number % 256) for y in range(32) for x in range(48)])
    made = io.BytesIO()
    image.save(made, "PNG")
    return made.getvalue()
