"""Which images were scored with which partners, as digests: whether two evaluations compare hangs on it."""

from __future__ import annotations

from collections.abc import Sequence

from metricwatch.api import Need
from metricwatch.worker.batches import LoadedBatch
from metricwatch.worker.plan import digest_of


class PairsDigest:
    """Takes note of names, partners' contents and prompts."""

    def __init__(self) -> None:
        self._seen: list[tuple[str, dict[str, bytes]]] = []

    def add(self, batch: LoadedBatch) -> None:
        for name, digests, prompt in zip(batch.names, batch.digests, batch.prompts, strict=True):
            self._seen.append((name, {"prompt": prompt.encode(errors="surrogatepass")} | dict(digests.items())))

    def provenance(self, kinds: Sequence[Need], prompts: bool) -> dict[str, str]:
        """names_digest and pairs_digest for a metric with these kinds of partners, 16 hex digits; {} without any.

        With the same names and other pairs, an image has been given another partner: the scores do not compare.
        With other names it is another sample of the same kind.
        """
        wanted = [*kinds, *(["prompt"] if prompts else [])]
        if not wanted:
            return {}
        rows = sorted(
            (name, [partners[kind] for kind in wanted])
            for name, partners in self._seen
            if all(kind in partners for kind in wanted)
        )
        names = digest_of(*(name.encode(errors="surrogateescape") for name, _ in rows))
        pairs = digest_of(*(digest for _, digests in rows for digest in digests))
        return {"names_digest": names.hex()[:16], "pairs_digest": pairs.hex()[:16]}
