"""The metricwatch.yaml of the demo: a real one, with a comment wherever a real job's would differ."""

from __future__ import annotations

from pathlib import Path

from metricwatch.cli.demo.folder import DemoFolder

METRIC = "fd_efficientnet_lite0"
PAIRED_METRIC = "ssim"
RULE = "fd-moved"
PREFIX = "quality"


def write_configuration(folder: DemoFolder, *, tracking_uri: str, webhook_url: str, smtp_port: int) -> Path:
    """Write the file and return its path."""
    text = f"""\
# What `metricwatch demo` ran. Relative paths count from this file's folder.

# The daemon's own records: what was scored, sent and said.
state: ./{folder.state_inside}

# Where the curves go: the demo's own MLflow server, which is gone when the demo is.
tracking:
  uri: {tracking_uri}
  prefix: {PREFIX}

watch:
    # The training job writes the id of its MLflow run to this file; the curves go into that run.
  - run:
      id_file: {folder.run_id_inside}
    # One folder a step: step_000100, step_000200, ... Complete when .done lies in it.
    samples: {folder.samples_inside}/*
    # What good pictures look like as a whole: other crops of the same photographs.
    reference: {folder.reference_inside}
    # The picture that a sample of the same name should resemble.
    pairs:
      content: {folder.content_inside}

# The Fréchet distance on EfficientNet-Lite0, whose weights a package brings: no download. A real job would take
# fid, kid, ... as well.
metrics: [{METRIC}, {PAIRED_METRIC}]

rules:
    # Over five evaluations in a row it moved by more than a tenth. Worse is critical, better is good to know.
  - name: {RULE}
    metric: {METRIC}
    moves: 10%
    across: 5

# Catchers on this machine, which keep what they are sent. Secrets of a real receiver come from the environment or
# from files: webhook_url: "${{SLACK_WEBHOOK_URL}}", password_file: /run/secrets/smtp.
notify:
  team:
    use: slack
    webhook_url: {webhook_url}
  mail:
    use: email
    host: 127.0.0.1
    port: {smtp_port}
    starttls: false
    from: metricwatch@example.org
    to: [ml-team@example.org]
"""
    path = folder / folder.config_inside
    path.write_text(text, encoding="utf-8")
    return path
