"""Posts as a bot, through Slack's Web API."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from metricwatch.api import MetricwatchError, PermanentError, Secret
from metricwatch.notifiers.slack.answers import OK, api_refusal, no_answer, upload_refusal
from metricwatch.notifiers.slack.blocks import Block
from metricwatch.notifiers.slack.curves import CurveFile
from metricwatch.notifiers.slack.silence import silent_logger

if TYPE_CHECKING:
    from slack_sdk import WebClient
    from slack_sdk.web import SlackResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A message in Slack: the ID of its channel and its own, which is a time."""

    channel: str
    ts: str


class Bot:
    """One token in one channel. Each method raises TemporaryError or PermanentError, without the token."""

    def __init__(self, token: Secret, channel: str, *, api_url: str, timeout: float) -> None:
        self._token = token
        self._channel = channel
        self._api_url = api_url
        self._timeout = timeout

    def post(self, text: str, blocks: list[Block]) -> Posted:
        """Post a message (chat.postMessage)."""
        answer = self._call(
            "chat.postMessage",
            lambda client: client.chat_postMessage(
                channel=self._channel, text=text, blocks=blocks, unfurl_links=False, unfurl_media=False
            ),
        )
        # The upload wants the channel's ID, also where the message went to a name.
        return Posted(channel=str(answer.get("channel") or self._channel), ts=str(answer.get("ts") or ""))

    def upload(self, posted: Posted, files: Sequence[CurveFile]) -> None:
        """Upload pictures into the thread of a message (files.getUploadURLExternal … completeUploadExternal).

        Into its thread, and not as blocks of it: a message can show a file only once Slack has processed it, and only
        if it has been shared in the channel before.
        """
        uploads = [
            {"filename": file.name, "content": file.content, "title": file.title, "alt_txt": file.title}
            for file in files
        ]
        self._call(
            "the upload of the curve",
            lambda client: client.files_upload_v2(
                file_uploads=uploads, channel=posted.channel, thread_ts=posted.ts or None
            ),
        )

    def rewrite(self, posted: Posted, text: str, blocks: list[Block]) -> None:
        """Put another text in the place of a message (chat.update)."""
        self._call(
            "chat.update",
            lambda client: client.chat_update(channel=posted.channel, ts=posted.ts, text=text, blocks=blocks),
        )

    def _call(self, what: str, ask: Callable[[WebClient], SlackResponse]) -> dict[str, Any]:
        outcome = self._attempt(what, ask)
        # Raised where no other error is at hand: a library's may hold what was sent.
        if isinstance(outcome, MetricwatchError):
            raise outcome
        return outcome

    def _attempt(self, what: str, ask: Callable[[WebClient], SlackResponse]) -> dict[str, Any] | MetricwatchError:
        from slack_sdk import WebClient
        from slack_sdk.errors import SlackApiError, SlackRequestError

        secrets = (self._token.reveal(),)
        try:
            client = WebClient(
                self._token.reveal(),
                base_url=self._api_url,
                timeout=self._timeout,  # type: ignore[arg-type]  # a socket timeout takes fractions
                logger=silent_logger(),
                retry_handlers=[],
            )
            # As for a webhook: urllib knows NO_PROXY.
            client.proxy = None
            data = ask(client).data
        except SlackApiError as error:
            answer = error.response
            return api_refusal(what, answer.status_code, answer.headers, answer.data, secrets)
        except SlackRequestError:
            return PermanentError(f"slack: {what}: refused by slack_sdk")
        except HTTPError as error:
            error.close()
            return upload_refusal(error.code, dict(error.headers.items()))
        except Exception as error:  # noqa: BLE001 - urllib, http.client, ssl and socket errors alike
            return no_answer(error)
        return data if isinstance(data, dict) else api_refusal(what, OK, {}, data, secrets)


__all__ = ["Bot", "Posted"]
