"""What is said over the pipe arrives as it was sent."""

from __future__ import annotations

import json

import pytest

from metricwatch.errors import WorkerError
from metricwatch.protocol import (
    Configure,
    Evaluate,
    Failure,
    Heartbeat,
    Log,
    Ready,
    Result,
    Sampling,
    Stop,
    decode,
    encode,
)
from metricwatch.records import Evaluation, KeptSample, Score, ScoreState, Skipped

EVALUATION = Evaluation(
    scores=(
        Score(key="fid", value=1.5, stderr=0.1, images=8, higher_is_better=False, provenance={"precision": "exact"}),
        Score(key="kid", value=None, images=1, higher_is_better=False, state=ScoreState.TOO_FEW_IMAGES, detail="got 1"),
    ),
    skipped=(Skipped(path="b.png", reason="cut short"),),
    images=8,
    seconds=0.5,
    provenance={"engine": "eager"},
    work={"decodes": 8},
    phases={"load": 0.25, "sample": 3.0, "score": 1.0},
    kept=(KeptSample(name="sample-000", path="/state/pictures/job-1/sample-000.png"),),
)
SAMPLING = Sampling(
    use="torchscript",
    options={"latent": [128], "arguments": {"depth": 3}},
    samples=None,
    seed=3,
    keep=4,
    kept="/state/pictures/job-1",
    batch_size=8,
    pins="/state/pins",
)


@pytest.mark.parametrize(
    "message",
    [
        Configure(device="cpu", weights={"inception-v3": "/w.pth"}),
        Evaluate(job=1, path="/samples", members=("a.png", "b.png"), metrics=("fid",), options={"fid": {"x": 1}}),
        Evaluate(job=1, path="/runs", step=1000, members=("step_1000.pt",), sampling=SAMPLING),
        Stop(),
        Ready(pid=1, device="cpu", versions={"torch": "2"}),
        Heartbeat(job=1, phase="sampling", done=3, total=8),
        Result(job=1, evaluation=EVALUATION),
        Failure(job=1, reason="it is gone", changed=True, gone=True),
        Log(level="info", event="x", fields={"a": "b"}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent(message):
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_what_a_worker_kept_arrives_as_records():
    arrived = decode(encode(Result(job=1, evaluation=EVALUATION))).evaluation
    assert arrived.kept[0].path == "/state/pictures/job-1/sample-000.png"
    assert arrived.phases == {"load": 0.25, "sample": 3.0, "score": 1.0}
    assert isinstance(decode(encode(Evaluate(job=1, path="/p", sampling=SAMPLING))).sampling, Sampling)


@pytest.mark.parametrize("change", [{"kept": [{"name": "a"}]}, {"kept": 3}, {"kept": [7]}, {"scores": None}])
def test_a_result_of_another_form_is_no_message_of_ours(change):
    document = json.loads(encode(Result(job=1, evaluation=EVALUATION)))
    document["evaluation"].update(change)
    with pytest.raises(WorkerError, match="not a protocol message"):
        decode(json.dumps(document).encode())
