"""Secrets are taken out of a server's answer in whatever form it repeats them."""

import json
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote

import pytest

from metricwatch.notifiers.redaction import redacted, secret_parts

SECRET = "xoxb-1/2?ü+hunter2 €"


@pytest.mark.parametrize("around", ["", "a", "ab", "abc", "\0mw\0"])
@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_base64_of_anything_around_it_is_hidden(around: str, encode) -> None:
    token = encode(f"{around}{SECRET}{around}".encode()).decode()
    assert redacted(f"cannot log in with {token}, sorry", [SECRET]) == "cannot log in with ******, sorry"


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        quote(SECRET, safe=""),
        quote(SECRET).lower(),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET)[1:-1].replace("/", r"\/"),
    ],
)
def test_spellings_of_it_are_hidden(form: str) -> None:
    assert redacted(f"<{form}>", [SECRET]) == "<******>"


def test_what_is_no_secret_stays() -> None:
    text = "HTTP 400: invalid_blocks, c2VydmljZXM="
    assert redacted(text, ["hunter2", ""]) == text


def test_of_an_address_the_drawn_parts_are_secret_and_not_the_ordinary_words() -> None:
    url = "https://hooks.example/services/T0/B1/AbCdEfGhIjKlMnOpQrStUvWx?token=letters"
    text = "services: no team T0, no hook AbCdEfGhIjKlMnOpQrStUvWx, not letters; see /services/T0/B1/x"
    assert redacted(text, secret_parts(url)) == (
        "services: no team ******, no hook ******, not ******; see /services/******/******/x"
    )


@pytest.mark.parametrize(
    "encode", [str, lambda text: quote(text, safe=""), lambda text: b64encode(text.encode()).decode()]
)
def test_of_a_secret_that_is_cut_off_no_long_piece_is_left(encode) -> None:
    secret = "xoxb?1-hunter2-AbCdEf"
    assert redacted(f"sent {encode(secret)[:16]}… was wrong", [secret]) == "sent ******… was wrong"
