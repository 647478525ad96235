"""FID of a folder against given statistics by a library without such a command: python peer.py LIBRARY FOLDER NPZ.

As its documentation shows it, on the CPU or the first GPU, in one process for itself: the last line is the FID.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import torch

_WEIGHTS = "WEIGHTS"
_BATCH = 50


def main() -> None:
    library, folder, reference = sys.argv[1:]
    with np.load(reference) as arrays:
        mu, sigma = arrays["mu"], arrays["sigma"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    workers = len(os.sched_getaffinity(0))
    print(_LIBRARIES[library](folder, mu, sigma, device, workers))


def _clean_fid(folder: str, mu: np.ndarray, sigma: np.ndarray, device: torch.device, workers: int) -> float:
    from cleanfid.features import build_feature_extractor
    from cleanfid.fid import frechet_distance, get_folder_features

    mode = "legacy_pytorch"
    model = build_feature_extractor(mode, device, use_dataparallel=False)
    features = get_folder_features(
        folder, model=model, num_workers=workers, batch_size=_BATCH, device=device, mode=mode, verbose=False
    )
    return float(frechet_distance(np.mean(features, axis=0), np.cov(features, rowvar=False), mu, sigma))


def _torch_fidelity(folder: str, mu: np.ndarray, sigma: np.ndarray, device: torch.device, workers: int) -> float:
    from torch.utils.data import DataLoader
    from torch_fidelity.datasets import ImagesPathDataset
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    network = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=os.environ[_WEIGHTS])
    network.to(device).eval()
    pictures = ImagesPathDataset(sorted(str(path) for path in Path(folder).iterdir()))
    with torch.no_grad():
        features = [
            network(batch.to(device))[0].cpu() for batch in DataLoader(pictures, batch_size=_BATCH, num_workers=workers)
        ]
    statistics = fid_features_to_statistics(torch.cat(features))
    given = {"mu": mu.astype(statistics["mu"].dtype), "sigma": sigma.astype(statistics["sigma"].dtype)}
    return float(fid_statistics_to_metric(statistics, given, verbose=False)[KEY_METRIC_FID])


def _torchmetrics(folder: str, mu: np.ndarray, sigma: np.ndarray, device: torch.device, workers: int) -> float:
    from torch.utils.data import DataLoader
    from torch_fidelity.datasets import ImagesPathDataset
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=os.environ[_WEIGHTS]).to(device)
    n, mean = 10 * len(mu), torch.from_numpy(mu)
    metric.real_features_num_samples += n
    metric.real_features_sum += (n * mean).to(metric.real_features_sum)
    product = (n - 1) * torch.from_numpy(sigma) + n * mean[:, None] @ mean[None, :]
    metric.real_features_cov_sum += product.to(metric.real_features_cov_sum)
    pictures = ImagesPathDataset(sorted(str(path) for path in Path(folder).iterdir()))
    for batch in DataLoader(pictures, batch_size=_BATCH, num_workers=workers):
        metric.update(batch.to(device), real=False)
    return float(metric.compute())


_LIBRARIES = {"clean-fid": _clean_fid, "torch-fidelity": _torch_fidelity, "torchmetrics": _torchmetrics}

if __name__ == "__main__":
    main()
