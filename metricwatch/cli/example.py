"""The commented metricwatch.yaml that init writes.

Prose comments begin with "# " and a word; settings that are switched off begin with "#" and the exact indentation
they need, so that removing the one character switches them on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What differs from one example to the next. run is a key and its value: ("name", "night-run")."""

    run: tuple[str, str]
    samples: str
    tracking_uri: str
    metrics: tuple[str, ...]
    reference: str | None = None
    content: str | None = None


def render(choices: Choices) -> str:
    """The file's whole text, ready to be read by load_config."""
    run_key, run_value = choices.run
    first = choices.metrics[0]
    if choices.reference is None:
        reference = (
            "#reference: data/real          # <- set this: without it fid and its kin have nothing to compare with"
        )
    else:
        reference = f"reference: {_quote(choices.reference)}"
    pairs = "#" if choices.content is None else ""
    return f"""\
# metricwatch.yaml: what to watch, what to compute, whom to tell.
# Check it with `metricwatch check`, start with `metricwatch run`.
#
# Relative paths count from this file's folder. ${{NAME}} and ${{NAME:-default}} stand for environment variables in
# any text ($${{ is a plain one). Any setting can be overridden from outside, with __ between the keys:
#   METRICWATCH_WORKER__DEVICE=cpu   METRICWATCH_WATCH__0__EVERY=500   METRICWATCH_METRICS='[ssim]'

# The daemon's own records: what was scored, sent and said. Keep it between restarts.
state: ./metricwatch-state

# Where the curves go. Default of uri: MLFLOW_TRACKING_URI.
tracking:
  uri: {_quote(choices.tracking_uri)}       # or http://mlflow.example.org:5000
  experiment: Default             # the experiment of runs that are known by name
  prefix: quality                 # curves are called quality/{first}, ...
  # Which run gets them: the training job's own (training), a run below it in MLflow's tree (child), or one of our own
  # in the experiment above (own). Choose before the first curve: a change would begin new ones elsewhere.
  #layout: training
  #report: true                   # report.html beside a run whose job has ended

# The same curves elsewhere, too, each kept from the others' troubles. Others are packages of their own: tensorboard
# (metricwatch-tensorboard), wandb (metricwatch-wandb).
#sinks:
#  lines:
#    use: json_lines
#    directory: ./curves           # a file for each run

# One entry for each training job.
watch:
    # The MLflow run that gets the curves, as exactly one of: name; id; id_file, a file the job writes its run id to.
    # Default: the run in MLFLOW_RUN_ID.
    # {{run}} in a folder's place makes one entry stand for many jobs, each with a run of its own; those that begin
    # later are taken up. Here id_file: "runs/{{run}}/mlflow_run_id" or name: "{{run}}", and below
    # samples: "runs/{{run}}/samples/*".
  - run:
      {run_key}: {_quote(run_value)}
      #total_steps: 200000

    # Each match is a folder of one step's images, or one image. The number after "step" or "iter" in its name is the
    # step; without such a word it is a folder's last number, an image's first.
    samples: {_quote(choices.samples)}
    # Where that guess is wrong: a regular expression with a group named step.
    #step_pattern: "step_(?P<step>[0-9]+)"

    # What the samples should look like: a folder of images, or an .npz with mu and sigma.
    {reference}

    # Partners of the samples with the same file stem, for metrics such as ssim. A manifest.jsonl among the samples, or
    # the one named here, may name them one by one: {{"image": ..., "content": ..., "style": ..., "prompt": ...}} lines.
    {pairs}pairs:
    {pairs}  content: {_quote(choices.content or "data/content")}
    #  style: data/style
    #  manifest: data/manifest.jsonl
    #  prompt: "a painting of a harbour"   # of all samples, for the CLIP metrics

    # Only steps that are multiples of it. Default: every step.
    #every: 1000

    # A step is complete when one of these files lies in its folder, or when nothing in it changed for `settle`.
    #markers: [.done, _SUCCESS]
    #settle: 5s
    # How often to look, beside the file system's own notifications.
    #rescan: 10s

    # When steps come faster than scores: every one (the default), the latest alone, or the newest first. At most so
    # many wait; older ones are skipped, and recorded as skipped.
    #backlog:
    #  policy: newest_first
    #  most: 20

    # A job that saves checkpoints and no images: each match is a step's file or folder, and a sampler makes the images,
    # with the same seeds and the same pairs at each step. `metricwatch plugins list` shows the samplers; some need
    # `pairs`. Beside these keys stand the sampler's own, here latent: the shape of one input of the program.
  #- run:
  #    name: other-run
  #    total_steps: 200000
  #  checkpoints: "runs/other/checkpoints/*.pt"
  #  sampler:
  #    use: torchscript
  #    latent: [128]
  #    samples: 64
  #    seed: 0
  #    batch_size: 16
  #    keep: 4                     # so many samples of each step can be looked at in MLflow

# What to compute. `metricwatch plugins list` shows all that is installed: fid, fd_efficientnet_lite0, ssim, ...
# Metrics that compare with a reference need `reference` above, those that compare pairs need `pairs`. Options stand
# beside a metric's name: - gram_style_loss: {{normalise: hw}}
metrics: [{", ".join(choices.metrics)}]

# Numbers made of the scores above, as composite_<name>. p = step / total_steps, as in
# "0.8*(1 - p)*content_loss + (0.6*p + 0.2)*gram_style_loss". Lower is better, unless they say otherwise.
#composites:
#  balance: "(0.6*p + 0.2) * {first} / 100"
#  quality:
#    expression: "exp(-{first} / 100)"
#    higher_is_better: true

# Pictures of each evaluation, at their step in MLflow: a sheet of samples; samples beside their content and style, with
# a map of where they departed; all metrics at once; the samples nearest to the reference. `pictures: off` for none.
#pictures:
#  samples: 16                     # on the sheet; the same ones at every step
#  compared: 4                     # of these beside their partners
#  neighbours: 4                   # beside what is nearest to them in the reference
#  heat: auto                      # whose map: a metric's name, none, or auto, the most perceptual of those above
#  radar: true
#  every: 1                        # of steps that are multiples of it alone, and of a run's first

# A copy of a network's weights, where the one that `metricwatch weights fetch` finds is not wanted; and how FID sees
# pictures: pytorch-fid (the default), tf or clean.
#extractors:
#  inception-v3:
#    weights: /models/pt_inception-2015-12-05-6726825d.pth
#    protocol: pytorch-fid

# When to raise the alarm. One key tells the kind of a rule: moves (over `across` evaluations), above, below, z_score
# (robust, over a window), stale (nothing evaluated for a time), nonfinite, state (no value). What they would have said
# over an old run, before you switch them on: metricwatch replay --run-id ID
rules:
  - name: {first.replace("_", "-")}-moved
    metric: {first}
    moves: 10%
    across: 5
    #mode: range                  # highest - lowest; net: last - first; each: every single step
    #direction: any               # any, worse or better
    #beyond_noise: 4              # and by more than four standard errors
    #for: 1                       # so many evaluations in a row must agree
    #warmup: 0                    # the first evaluations of a run that are not looked at
    #keep_firing: 0               # how many calm evaluations it goes on firing
    #severity: warning            # instead of critical (worse) and info (better)
    #labels: {{team: vision}}       # for routes and silences
    #receivers: [team]            # instead of those that the routes say
    #message:                     # templates in place of our words
    #  title: "{{{{ title }}}} — vision"
    #  text: "{{{{ text }}}} Ask the vision team."
    #runs: {{"*": {{moves: 20%}}}}  # other settings for runs whose name matches a pattern; off: not for those
  #- name: dead
  #  stale: 2h                    # nothing was evaluated for so long
  #- name: {first.replace("_", "-")}-has-no-value
  #  metric: {first}
  #  state: any                   # or some of collapsed, failed, non_finite, no_input, no_pairs, no_reference,
  #                               # too_few_images
  #  for: 2
  #- name: {first.replace("_", "-")}-bad
  #  metric: {first}
  #  above: 60

# Whom to tell. Secrets come from the environment or from files, never from here.
# Try a receiver with `metricwatch notify test team`.
#notify:
#  team:
#    use: slack
#    # Or as a bot, which sends the curve as a picture, too: bot_token_file and channel.
#    webhook_url: "${{SLACK_WEBHOOK_URL}}"
#  mail:
#    use: email
#    host: smtp.example.org
#    port: 587
#    starttls: true
#    username: metricwatch
#    password_file: /run/secrets/smtp
#    from: metricwatch@example.org
#    to: [ml-team@example.org]
#  pager:
#    use: pagerduty
#    routing_key_file: /run/secrets/pagerduty
#  hook:
#    use: webhook                  # posts what Alertmanager posts
#    url: "${{HOOK_URL}}"

# Who hears of what, and when. Without it everybody hears of everything. Labels: alertname, run, metric, severity,
# direction, kind and those of the rules; matchers as Alertmanager has them: = != =~ !~
#route:
#  group_by: [run]                 # alerts of one run come in one message
#  group_wait: 5s
#  group_interval: 1m
#  repeat_interval: 4h             # what still fires is told again
#  fallback: mail                  # who gets what another receiver refuses
#  routes:
#    - {{match: ['severity="critical"'], receivers: [pager, team]}}
#    - {{match: ['run=~"debug-.*"'], receivers: []}}

# Held, and told as one message afterwards. Matching alerts are not held: except.
#quiet_hours:
#  - {{from: "22:00", to: "07:00", timezone: Europe/Berlin, except: ['severity="critical"']}}

# While an alert that matches source fires, those that match target, with equal labels, are not told. The default:
#inhibit:
#  - {{source: ['kind="stale"', 'metric=""'], target: ['kind!="stale"'], equal: [run]}}
#  - {{source: ['kind="stale"'], target: ['kind!="stale"'], equal: [run, metric]}}

# The process that computes. It leaves after idle_exit without work, to give the GPU's memory back.
#worker:
#  device: auto                    # auto, cpu, cuda or cuda:1
#  precision: exact                # float32 throughout; fast: float16 on GPUs, bfloat16 on CPUs that have it
#  engine: auto                    # auto, eager, folded, compile, openvino or tensorrt
#  batch_size: 32
#  max_pixels: 100000000           # images larger than this are skipped and named
#  feature_cache: 2GB              # kept under `state`, so that nothing is computed twice; 0 for none
#  idle_exit: 10m
#  recycle_after: 500              # evaluations, then a fresh process
#  heartbeat_timeout: 60s          # silence after which it counts as hung
#  stall_timeout: 30m              # signs of life without progress for so long: the same
#  threads: 4                      # CPU threads, of each pool. Default: the library's choice
#  nice: 10                        # priority for the CPU: 0 (like others) to 19 (last)
#  ionice: best-effort             # for disks (Linux): best-effort (its last), idle (when no one else reads) or none
#  max_gpu_share: 0.5              # busy for this part of the time, pauses between batches. Default: 0.5 on a GPU,
#                                  # no pauses on the CPU, where it counts as well when it is written here
#  gpu_memory: 4GB                 # PyTorch takes no more of the GPU. Default: what it needs
#  min_free_gpu_memory: 0          # with less of it free an evaluation waits for later; 6GB for example

# What the ledger lets go of, and how many copies of it lie beside it.
#retention:
#  runs: 90d                       # after the last evaluation of a run that is no longer watched
#  deliveries: 14d                 # points, once they have arrived
#  backups: 3                      # the newest copies are kept; 0: none are made
#  backup_every: 1d

# Health and the daemon's own metrics over HTTP. Default: no port, no server.
#telemetry:
#  host: 127.0.0.1
#  port: 9464
"""


def _quote(text: str) -> str:
    # JSON's quoting is YAML's double-quoted style.
    return json.dumps(text, ensure_ascii=False)
