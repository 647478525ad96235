"""`metricwatch notify test`: a real message through the real notifier."""

from __future__ import annotations

import pytest

from metricwatch.cli import notify
from metricwatch.drawing import process
from metricwatch.errors import ConfigError, TemporaryError
from tests.support.smtp_server import smtp_server

CONFIG = """
tracking: {{uri: "http://mlflow:5000"}}
watch: [{{run: {{name: night}}, samples: a/*}}]
metrics: [fid]
notify:
  mail: {{use: email, host: {host}, port: {port}, starttls: false, from: mw@example.org, to: [ml@example.org]}}
"""


@pytest.fixture
def mails(tmp_path):
    with smtp_server() as server:
        (tmp_path / "c.yaml").write_text(CONFIG.format(host=server.host, port=server.port))
        yield server.mails


def test_a_test_message_looks_like_a_real_one_with_its_curve(mails, tmp_path, capsys):
    notify.command("mail", config=tmp_path / "c.yaml")
    (mail,) = mails
    assert mail.message["Subject"] == "[test] night: fid rose 19.7% (fid-moved)"
    pictures = [part.get_payload(decode=True) for part in mail.message.walk() if part.get_content_type() == "image/png"]
    assert [picture[:4] for picture in pictures] == [b"\x89PNG"]
    assert "mail: the test message was taken" in capsys.readouterr().out


def test_a_curve_that_cannot_be_drawn_is_told_and_the_message_goes_without_it(mails, tmp_path, capsys, monkeypatch):
    def draw(curves, form="png"):
        raise TemporaryError("drawing: no room")

    monkeypatch.setattr(process, "draw", draw)
    notify.command("mail", config=tmp_path / "c.yaml")
    assert len(mails) == 1
    assert "without its picture, which cannot be drawn: drawing: no room" in capsys.readouterr().err


def test_an_unknown_receiver_is_told_with_the_nearest(mails, tmp_path):
    with pytest.raises(ConfigError, match="no receiver 'mial'; did you mean 'mail'"):
        notify.command("mial", config=tmp_path / "c.yaml")
    assert mails == []
