"""Secrets reach the plugin, and nothing else: no error, no repr, no dump shows one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metricwatch.api import Secret
from metricwatch.config import Tracking, bind_options, load_config
from metricwatch.errors import ConfigError, PluginError

HIDDEN = "hunter2hunter2"
FILE = """
tracking: {uri: "https://me:hunter2hunter2@mlflow.example.org/x?token=hunter2hunter2&a=b"}
watch: [{run: {name: a}, samples: a/*}]
metrics: [fid]
notify:
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """As a plugin would write them."""

    host: str
    sender: str = field(metadata={"key": "from"})
    password: Secret
    token: Secret | None = None
    to: tuple[str, ...] = ()
    port: int = 25
    timeout: timedelta = timedelta(seconds=10)
    ca_file: Path | None = None

    def __post_init__(self):
        if self.host == "forbidden":
            raise ConfigError(f"host {self.host} with {self.password.reveal()} is not allowed")
        if self.host == "silly":
            raise ValueError(f"{self.password.reveal()} again")


FULL = {"host": "h", "from": "me@x", "password": HIDDEN}


def refused(raw, base=None):
    with pytest.raises(ConfigError) as caught:
        bind_options(Options, raw, "metricwatch.yaml: notify.mail", base=base)
    assert HIDDEN not in str(caught.value)
    assert HIDDEN not in repr(caught.value)
    return str(caught.value).splitlines()


def test_options_are_bound_with_renamed_keys_durations_and_paths(tmp_path):
    raw = {**FULL, "timeout": "2m", "to": ["a", "b"], "port": "587", "ca_file": "ca.pem"}
    bound = bind_options(Options, raw, "x", base=tmp_path)
    assert bound == Options(
        host="h",
        sender="me@x",
        password=Secret(HIDDEN),
        to=("a", "b"),
        port=587,
        timeout=timedelta(minutes=2),
        ca_file=tmp_path / "ca.pem",
    )
    assert HIDDEN not in repr(bound)


def test_a_secret_may_come_from_a_file_beside_the_configuration(tmp_path):
    (tmp_path / "smtp").write_text(f"{HIDDEN}\n")
    raw = {"host": "h", "from": "x", "password_file": "smtp"}
    assert bind_options(Options, raw, "x", base=tmp_path).password.reveal() == HIDDEN


def test_a_secret_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    start = "metricwatch.yaml: notify.mail.password_file: "
    raw = {"host": "h", "from": "x"}
    assert refused({**raw, "password_file": "no"}, tmp_path) == [
        f"{start}cannot read the secret file {tmp_path}/no: No such file or directory"
    ]
    assert refused({**raw, "password_file": "empty"}, tmp_path) == [f"{start}the secret file {tmp_path}/empty is empty"]
    assert refused({**raw, "password_file": "binary"}, tmp_path) == [
        f"{start}the secret file {tmp_path}/binary is not UTF-8 text"
    ]
    assert refused({**raw, "password_file": 7}, tmp_path) == [f"{start}must be the path of a file"]


def test_a_secret_file_that_is_a_pipe_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (line,) = refused({"host": "h", "from": "x", "password_file": "pipe"}, tmp_path)
    assert line.endswith(f"password_file: the secret file {tmp_path}/pipe is not a regular file but a pipe or a device")


def test_a_secret_given_twice_is_refused(tmp_path):
    (tmp_path / "smtp").write_text(HIDDEN)
    assert refused({**FULL, "password_file": "smtp"}, tmp_path) == [
        "metricwatch.yaml: notify.mail.password_file: given together with password; keep one of the two"
    ]


def test_a_missing_secret_says_both_ways_to_give_it():
    assert refused({"host": "h", "from": "x"}) == [
        "metricwatch.yaml: notify.mail.password: required, but not given; write password or password_file"
    ]


def test_problems_are_named_by_the_key_that_was_written():
    assert refused({"host": "h", "from": 3, "password": HIDDEN, "prot": 1, "timeout": "soon", "to": "me"}) == [
        "metricwatch.yaml: notify.mail.prot: unknown key; did you mean 'port'?",
        "metricwatch.yaml: notify.mail.timeout: must be a duration such as 5s, 250ms, 10m, 4h or 1d",
        (
            "metricwatch.yaml: notify.mail.from: must be text; put quotes around it if it looks like a number, a date or "
            "yes/no"
        ),
        "metricwatch.yaml: notify.mail.to: must be a list",
    ]


def test_the_fields_own_name_is_not_a_key_when_it_is_written_under_another():
    (line, _) = refused({"host": "h", "sender": "x", "password": HIDDEN})
    assert line.startswith("metricwatch.yaml: notify.mail.sender: unknown key")


@pytest.mark.parametrize("value", [[HIDDEN], {"a": HIDDEN}, {HIDDEN: 1}, 12345678, 1.5, True, None])
def test_a_secret_of_the_wrong_type_is_refused_without_being_shown(value):
    lines = refused({**FULL, "password": value})
    assert len(lines) == 1
    assert "12345678" not in lines[0]


@pytest.mark.parametrize("host", ["forbidden", "silly"])
def test_a_plugins_own_complaint_is_shown_without_the_secret(host):
    (line,) = refused({**FULL, "host": host})
    assert "******" in line


def test_options_that_are_no_dataclass_are_the_plugins_fault():
    with pytest.raises(PluginError, match="cannot be read"):
        bind_options(int, {}, "x")


@given(
    st.dictionaries(
        st.sampled_from(["host", "from", "password", "token", "to", "port", "x"]),
        st.just(HIDDEN) | st.lists(st.just(HIDDEN)),
    )
)
def test_no_combination_of_keys_makes_a_secret_appear(raw):
    try:
        bound = bind_options(Options, raw, "x")
    except ConfigError as error:
        shown = str(error)
    else:
        shown = repr((bound.password, bound.token))
    assert HIDDEN not in shown


@pytest.fixture
def load(tmp_path):
    def load(text: str, **environ: str):
        file = tmp_path / "metricwatch.yaml"
        file.write_text(text)
        return load_config(file, environ=environ)

    return load


def test_a_configuration_never_shows_its_secrets(load, tmp_path):
    (tmp_path / "smtp").write_text(HIDDEN)
    config = load(
        FILE
        + "  team: {use: slack, webhook_url: '${HOOK}'}\n"
        + "  mail: {use: email, host: h, username: u, password_file: smtp, from: a@b.c, to: [a@b.c]}\n",
        HOOK=f"https://hooks.slack.com/{HIDDEN}",
    )
    assert HIDDEN in config.notify["team"].options.webhook_url.reveal()
    assert config.notify["mail"].options.password.reveal() == HIDDEN
    assert config.notify["mail"].options.sender == "a@b.c"
    shown = (
        repr(config),
        str(config),
        config.model_dump_json(),
        json.dumps(config.model_dump(mode="json")),
        repr(config.model_dump()),
        repr(config.tracking),
        config.tracking.redacted_uri,
    )
    assert not [text for text in shown if HIDDEN in text]


@pytest.mark.parametrize(
    "written",
    [
        f"!{HIDDEN}",
        f"*{HIDDEN}",
        f"&{HIDDEN} &{HIDDEN} x",
        f"!!{HIDDEN}",
        f"%{HIDDEN}: [",
        f"'{HIDDEN}",
        f"{HIDDEN}: {HIDDEN}",
        f"[{HIDDEN}]",
        f"{{{HIDDEN}: {HIDDEN}}}",
        f"${{{HIDDEN}",
    ],
)
def test_a_secret_written_wrongly_is_not_repeated(load, written):
    with pytest.raises(ConfigError) as caught:
        load(FILE + f"  team: {{use: slack, webhook_url: {written} }}\n")
    assert HIDDEN not in str(caught.value).replace(f"variable {HIDDEN}", "")


HOOK = f"https://hooks.slack.com/services/{HIDDEN}"


@pytest.mark.parametrize(
    ("more", "start"),
    [
        (f"  team: {{use: '{HOOK}'}}\n", "notify.team.use: unknown notifier (an address, not shown); known: "),
        (f"  team: {{use: hooks.slack.com/services/{HIDDEN}}}\n", "notify.team.use: unknown notifier (an address"),
        (f"  team: {{use: slack, webhook_url: x, '{HOOK}': 1}}\n", "notify.team.(an address, not shown): unknown key"),
        (f"  '{HOOK}': {{use: slack}}\n", "notify.(an address, not shown): a receiver's name must not be an address"),
        (f"  '{HOOK}': 1\n  '{HOOK}': 2\n", "the key (an address, not shown) is given twice"),
        (f"'me:{HIDDEN}@host': 1\n", "(an address, not shown): unknown key; "),
        (f"worker: {{'{HOOK}': 1}}\n", "worker.(an address, not shown): unknown key; "),
        (
            f"  '{HOOK}': {{use: slack}}\nrules: [{{name: a, metric: fid, moves: 1, across: 5, receivers: [b]}}]\n",
            "rules[0].receivers: unknown receiver 'b'; notify names nobody yet",
        ),
        (
            f"  mail: {{use: email, host: h, from: a@b.c, to: ['smtp://me:{HIDDEN}@b.c']}}\n",
            "notify.mail: to[0]: not an e-mail address",
        ),
        (f"  mail: {{use: email, host: h, from: {HIDDEN}, to: [a@b.c]}}\n", "notify.mail: from: not an e-mail address"),
        (
            "  mail: {use: email, host: h, from: a@b.c, to: ['a@b.c, d@e.f']}\n",
            "notify.mail: to[0]: 'a@b.c, d@e.f' is not an e-mail address; write one such as name@example.org",
        ),
        (f"  mail: {{use: email, host: 'u:{HIDDEN}@h', from: a@b.c, to: [a@b.c]}}\n", "notify.mail: host is not the"),
    ],
)
def test_a_secret_in_the_wrong_place_is_named_by_its_place_only(load, tmp_path, more, start):
    with pytest.raises(ConfigError) as caught:
        load(FILE + more)
    lines = str(caught.value).splitlines()
    assert HIDDEN not in str(caught.value)
    assert any(start in line and line.startswith(str(tmp_path / "metricwatch.yaml")) for line in lines), lines


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:pw@host/x", "https://******@host/x"),
        ("postgresql+psycopg://me:p@ss@db:5432/ml", "postgresql+psycopg://******@db:5432/ml"),
        ("https://host/x?api_key=1&b=2", "https://host/x?api_key=******&b=2"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("https://host/@me", "https://host/@me"),
        ("http://u:pw/x@host", "http://******@host"),
        ("http://u:pw?x#y@z@host/a", "http://******@host/a"),
        ("htp:/u:pw@x", "htp:/******@x"),
        ("u:pw@x", "******@x"),
        ("/u:pw@x", "/******@x"),
        ("sqlite:////data/me@work/x.db", "sqlite:////data/me@work/x.db"),
    ],
)
def test_an_address_is_shown_without_credentials(uri, shown):
    tracking = Tracking(uri=uri)
    assert tracking.redacted_uri in {shown, shown.replace("mlflow.db", f"{Path.cwd()}/mlflow.db".lstrip())}
    assert "pw" not in repr(tracking)
