"""Common implementations in research code of the metrics that `core.py` measures."""

import numpy as np
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree
from torch import Tensor


def pa_mpjpe_with_temporaries(pred: Tensor, target: Tensor) -> Tensor:
    """Align in batches as HaMeR and related repositories do: transposed clouds, and a tensor for every step."""
    a, b = pred.permute(0, 2, 1), target.permute(0, 2, 1)
    mean_a, mean_b = a.mean(dim=2, keepdim=True), b.mean(dim=2, keepdim=True)
    centred_a, centred_b = a - mean_a, b - mean_b
    spread = (centred_a**2).sum(dim=(1, 2))
    covariance = torch.matmul(centred_a, centred_b.permute(0, 2, 1))
    u, _, v = torch.svd(covariance)
    reflect = torch.eye(3).unsqueeze(0).repeat(len(pred), 1, 1)
    reflect[:, -1, -1] *= torch.sign(torch.linalg.det(torch.matmul(u, v.permute(0, 2, 1))))
    rotation = torch.matmul(torch.matmul(v, reflect), u.permute(0, 2, 1))
    trace = torch.matmul(rotation, covariance).diagonal(offset=0, dim1=-1, dim2=-2).sum(-1)
    scale = (trace / spread).unsqueeze(-1).unsqueeze(-1)
    shift = mean_b - scale * torch.matmul(rotation, mean_a)
    aligned = (scale * torch.matmul(rotation, a) + shift).permute(0, 2, 1)
    return torch.sqrt(((aligned - target) ** 2).sum(dim=-1)).mean(dim=-1)


def pa_mpjpe_by_svd(pred: Tensor, target: Tensor) -> Tensor:
    """Align in batches with as few steps as a batched SVD allows."""
    a, b = pred - pred.mean(1, keepdim=True), target - target.mean(1, keepdim=True)
    u, singular, vh = torch.linalg.svd(a.mT @ b)
    sign = torch.ones_like(singular)
    sign[:, 2] = torch.det(u @ vh).sign()
    scale = (singular * sign).sum(1) / a.square().sum((1, 2))
    rotation = (vh.mT * sign[:, None]) @ u.mT
    return torch.linalg.vector_norm(torch.baddbmm(b, a, (scale[:, None, None] * rotation).mT, beta=-1), dim=-1).mean(1)


def freihand_one_by_one(pred: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Compute mean error and AUC after alignment, looping over samples, joints and thresholds."""
    distances: list[list[float]] = [[] for _ in range(pred.shape[1])]
    for p, t in zip(pred, target, strict=True):
        mean_p, mean_t = p.mean(0), t.mean(0)
        size_p, size_t = np.linalg.norm(p - mean_p) + 1e-8, np.linalg.norm(t - mean_t) + 1e-8
        rotation, scale = orthogonal_procrustes((t - mean_t) / size_t, (p - mean_p) / size_p)
        aligned = np.dot((p - mean_p) / size_p, rotation.T) * scale * size_t + mean_t
        error = np.sqrt(np.sum(np.square(aligned - t), axis=1))
        for joint, value in enumerate(error):
            distances[joint].append(value)
    thresholds = np.linspace(0, 0.05, 100)
    means, areas = [], []
    for joint in distances:
        values = np.array(joint)
        means.append(np.mean(values))
        curve = np.array([np.mean((values <= limit).astype("float")) for limit in thresholds])
        areas.append(np.trapezoid(curve, thresholds) / np.trapezoid(np.ones_like(thresholds), thresholds))
    return float(np.mean(means)), float(np.mean(areas))


def f_score_by_trees(pred: np.ndarray, target: np.ndarray, thresholds: tuple[float, ...]) -> np.ndarray:
    """Compute the F-score of each frame and threshold, with a search in both directions each time."""
    scores = np.zeros((len(pred), len(thresholds)))
    for frame, (p, t) in enumerate(zip(pred, target, strict=True)):
        for column, limit in enumerate(thresholds):
            forward, backward = cKDTree(t).query(p)[0], cKDTree(p).query(t)[0]
            precision, recall = np.mean(forward < limit), np.mean(backward < limit)
            scores[frame, column] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return scores


def acceleration_error_plain(pred: Tensor, target: Tensor, fps: float) -> Tensor:
    """Compute acceleration errors from root-relative copies: (time - 2), m/s^2."""
    p, t = pred - pred[:, :1], target - target[:, :1]
    pred_acceleration = p[:-2] - 2 * p[1:-1] + p[2:]
    true_acceleration = t[:-2] - 2 * t[1:-1] + t[2:]
    return torch.norm((pred_acceleration - true_acceleration) * fps**2, dim=2).mean(dim=1)


def motion_deviation_by_loops(hand: Tensor, thing: Tensor, contact: Tensor | np.ndarray, min_frames: int) -> float:
    """Loop over pairs and frames to find the windows, then over the windows."""
    touching = contact
    windows = []
    for pair in range(touching.shape[1]):
        start = None
        for frame in range(touching.shape[0]):
            if touching[frame, pair]:
                start = frame if start is None else start
                continue
            if start is not None and frame - start >= min_frames:
                windows.append((pair, start, frame))
            start = None
        if start is not None and touching.shape[0] - start >= min_frames:
            windows.append((pair, start, touching.shape[0]))
    values = []
    for pair, first, last in windows:
        ours, theirs = hand[first:last, pair], thing[first:last, pair]
        values.append(torch.norm((ours[1:] - ours[:-1]) - (theirs[1:] - theirs[:-1]), dim=1).mean())
    return float(torch.stack(values).mean())
