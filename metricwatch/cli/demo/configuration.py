"""The metricwatch.yaml of the demo: a real one, with a comment wherever a real job's would differ."""

from __future__ import annotations

from pathlib import Path

from metricwatch.cli.demo.folder import DemoFolder

METRIC = "fd_efficientnet_lite0"
SIMILARITY = "ssim"
PERCEPTUAL = "st_lpips"
STYLE = "st_gram_style_loss"
COMPOSITE = "composite_quality"
RULE = "quality-moved"
PREFIX = "quality"
# Samples of each checkpoint that can be looked at.
KEPT = 4


def write_configuration(folder: DemoFolder, *, tracking_uri: str, webhook_url: str, smtp_port: int, steps: int) -> Path:
    """Write the file and return its path. steps is how long the training is."""
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
      total_steps: {steps}
    # One file a step: step_000020.pt, step_000040.pt, ... each there whole or not at all.
    checkpoints: {folder.checkpoints_inside}/*.pt
    # What makes pictures of a checkpoint: style transfer by whitening and colouring, with the decoder that is being
    # trained. Every content picture meets every style, the same at each step; {KEPT} of them can be seen in MLflow.
    sampler:
      use: wct
      keep: {KEPT}
    pairs:
      content: {folder.content_inside}
      style: {folder.style_inside}
    # What good pictures look like as a whole: crops of photographs.
    reference: {folder.reference_inside}

# Their weights come with packages: no download. A real job would take fid, kid, lpips, gram_style_loss, ... as well.
metrics: [{METRIC}, {SIMILARITY}, {PERCEPTUAL}, {STYLE}]

# Like its content, and not like noise: lower is better.
composites:
  {COMPOSITE.removeprefix("composite_")}: "0.5*(1 - {SIMILARITY}) + 0.5*{PERCEPTUAL}"

rules:
    # Over five evaluations in a row it moved by more than a tenth. Worse is critical, better is good to know.
  - name: {RULE}
    metric: {COMPOSITE}
    moves: 10%
    across: 5

# A trainer that is faster than the scorer is no trouble: with newest_first the newest checkpoint is scored first.
# Here every one is, in order.

# One core for the scores; the other is the training job's.
worker:
  threads: 1

# Each alert is told at once and alone. Of a real job those that come together are better told together: leave it out.
route:
  group_wait: 0s
  group_interval: 0s

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
