"""Shows the HTML of a mail as a page that needs nothing else, so that a person can judge it."""

from base64 import b64encode
from email.message import EmailMessage


def mail_page(message: EmailMessage) -> str:
    """The HTML part, with its inline pictures as data addresses."""
    body = message.get_body(("html",))
    assert body is not None
    page = str(body.get_content())
    for part in message.walk():
        if cid := part["Content-ID"]:
            content = part.get_payload(decode=True)
            assert isinstance(content, bytes)
            data = f"data:{part.get_content_type()};base64,{b64encode(content).decode()}"
            page = page.replace(f"cid:{str(cid).strip('<>')}", data)
    return page
