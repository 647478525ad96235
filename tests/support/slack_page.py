"""Shows a Slack message as a page that looks roughly as Slack shows it, so that a person can judge it."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape, unescape
from typing import Any

_STYLE = """
body { font: 15px/1.47 Lato, "Noto Sans", Helvetica, Arial, sans-serif; color: #1d1c1d; margin: 24px; width: 660px }
.message { padding-left: 48px; position: relative }
.message::before { content: "m"; position: absolute; left: 0; width: 36px; height: 36px; border-radius: 6px;
  background: #1f6fb2; color: #fff; text-align: center; line-height: 34px; font-weight: 700 }
.who { font-weight: 900 } .who small { font-weight: 400; color: #616061; margin-left: 6px }
.header { font-size: 18px; font-weight: 900; margin: 8px 0 }
.section { margin: 8px 0; white-space: pre-wrap; overflow-wrap: anywhere }
.fields { display: grid; grid-template-columns: 1fr 1fr; gap: 8px 16px; margin-top: 6px }
.context { font-size: 13px; color: #616061; margin: 8px 0 }
pre { font: 12px/1.5 Menlo, "DejaVu Sans Mono", monospace; background: #f8f8f8; border: 1px solid #ddd;
  border-radius: 4px; padding: 8px; margin: 4px 0 }
img { max-width: 480px; border: 1px solid #ddd; border-radius: 8px; display: block; margin: 4px 0 8px }
.thread { margin: 12px 0 0 48px; border-left: 3px solid #ddd; padding-left: 12px }
a { color: #1264a3; text-decoration: none }
"""


def slack_page(message: Mapping[str, Any], files: Sequence[tuple[str, bytes]] = ()) -> str:
    """An HTML page of a message as it was posted, and of the titles and contents of PNG files in its thread."""
    blocks = "\n".join(_block(block) for block in message["blocks"])
    pictures = "".join(
        f'<div><b>{escape(title)}</b><img src="data:image/png;base64,{b64encode(content).decode()}"></div>'
        for title, content in files
    )
    thread = f'<div class="thread">{pictures}</div>' if pictures else ""
    return (
        f'<!doctype html><meta charset="utf-8"><style>{_STYLE}</style>\n'
        f'<div class="message"><div class="who">metricwatch<small>APP</small></div>\n{blocks}</div>\n{thread}\n'
    )


def _block(block: Mapping[str, Any]) -> str:
    if block["type"] == "header":
        return f'<div class="header">{escape(block["text"]["text"])}</div>'
    if block["type"] == "context":
        return f'<div class="context">{" ".join(_mrkdwn(item["text"]) for item in block["elements"])}</div>'
    assert block["type"] == "section"
    text = _mrkdwn(block["text"]["text"]) if "text" in block else ""
    fields = "".join(f"<div>{_mrkdwn(field['text'])}</div>" for field in block.get("fields", ()))
    return f'<div class="section">{text}' + (f'<div class="fields">{fields}</div>' if fields else "") + "</div>"


def _mrkdwn(text: str) -> str:
    """Slack's entities are also those of HTML; what stands in <...> is a link or a date."""

    def control(found: re.Match[str]) -> str:
        target, _, words = found[1].partition("|")
        return words if target.startswith("!date") else f'<a href="{escape(unescape(target))}">{words}</a>'

    text = re.sub(r"<([^>]*)>", control, text)
    text = re.sub(r"```(.*?)```", r"<pre>\1</pre>", text, flags=re.DOTALL)
    return re.sub(r"(?m)(^|\s)\*([^*\n]+)\*(?=\s|$)", r"\1<b>\2</b>", text)
