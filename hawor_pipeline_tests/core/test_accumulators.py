"""Accumulators: exact in streaming, the same over several processes, and equal to the published way of counting."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.metrics.accumulators import (
    BinnedMean,
    CalibrationError,
    DetectionRates,
    PointCurve,
    SampleMean,
)


def freihand_measures(errors: np.ndarray, counted: np.ndarray, limit: float, steps: int) -> tuple[float, float]:
    """Mean error and area of the PCK curve, joint by joint in float64, as FreiHAND's script has them."""
    thresholds = np.linspace(0, limit, steps)
    means, areas = [], []
    for joint in range(errors.shape[1]):
        values = errors[counted[:, joint], joint].astype(np.float64)
        if len(values) == 0:
            continue
        means.append(values.mean())
        curve = np.array([(values <= threshold).mean() for threshold in thresholds])
        areas.append(np.trapezoid(curve, thresholds) / limit)
    return float(np.mean(means)), float(np.mean(areas))


def parts(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Uneven batches."""
    return list(zip(*(tensor.split((3, 40, 7, 50)) for tensor in tensors), strict=True))


def test_point_curve_equals_freihands_measures_however_it_is_fed() -> None:
    errors = torch.rand(100, 21) * 0.08
    counted = torch.rand(100, 21) < 0.8
    counted[:, 5] = False  # a joint without any label has no value
    errors[~counted] = torch.nan
    once, streamed = PointCurve(21), PointCurve(21)
    once.update(errors)
    for part, mask in parts(errors, counted):
        streamed.update(part, mask)
    mean, area = freihand_measures(errors.numpy(), counted.numpy(), 0.05, 100)
    for curve in (once, streamed):
        assert curve.compute()["mean"].item() == pytest.approx(mean, abs=1e-12)
        assert curve.compute()["auc"].item() == pytest.approx(area, abs=1e-7)
    assert torch.equal(once.histogram, streamed.histogram)


def test_point_curve_of_whole_labels_is_the_mean_of_the_samples() -> None:
    errors = torch.rand(60, 21) * 0.08
    curve = PointCurve(21, max_threshold=0.03, steps=20)
    curve.update(errors)
    areas = metrics.pck_auc(errors[..., None], torch.zeros(60, 21, 1), max_threshold=0.03, steps=20)
    assert curve.compute()["auc"].item() == pytest.approx(areas.double().mean().item(), abs=1e-6)
    shares = metrics.share_within(errors, curve.compute()["thresholds"].float()).double().mean(0)
    torch.testing.assert_close(curve.compute()["curve"], shares, atol=1e-6, rtol=0)


def test_sample_mean_is_not_a_mean_of_batch_means() -> None:
    values = torch.rand(100)
    values[::7] = torch.nan
    mask = torch.rand(100) < 0.6
    mean = SampleMean()
    for part, use in parts(values, mask):
        mean.update(part, use)
    expected = np.nanmean(values[mask].numpy().astype(np.float64))
    assert mean.compute().item() == pytest.approx(expected, abs=1e-14)
    assert SampleMean().compute().isnan()


def test_sums_stay_exact_where_float32_would_not() -> None:
    mean = SampleMean()
    mean.update(torch.full((1,), 1e8))
    for _ in range(100):
        mean.update(torch.ones(1))
    assert mean.compute().item() == (1e8 + 100) / 101


def test_binned_mean_and_calibration_equal_their_pure_functions() -> None:
    values, key = torch.rand(100), torch.rand(100)
    values[3], key[4] = torch.nan, 1.0
    edges = [0.0, 0.25, 0.5, 1.0]
    bins, error = BinnedMean(edges), CalibrationError()
    correct = torch.rand(100) < key
    for part, of, right in parts(values, key, correct):
        bins.update(part, of)
        error.update(of, right)
    mean, count = metrics.binned_mean(values, key, edges)
    torch.testing.assert_close(bins.compute()["mean"].float(), mean)
    assert bins.compute()["count"].tolist() == count.tolist()
    assert error.compute().item() == pytest.approx(metrics.calibration_error(key, correct).item(), abs=1e-6)


def test_detection_rates_count_by_side() -> None:
    truth, sides = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]]), torch.tensor([True, False])
    boxes = torch.cat((truth, torch.tensor([[50.0, 0, 60, 10]])))
    rates = DetectionRates()
    rates.update(boxes, torch.ones(3), torch.tensor([True, True, True]), truth, sides)
    rates.update(boxes[:0], torch.ones(0), sides[:0], truth, sides)
    found = {name: value.item() for name, value in rates.compute().items()}
    assert found["precision_right"] == pytest.approx(1 / 3) and found["recall_right"] == 0.5
    assert np.isnan(found["precision_left"]) and found["recall_left"] == 0.0
    assert found["precision"] == pytest.approx(1 / 3) and found["recall"] == 0.25


def _process(rank: int, store: str, errors: Tensor, expected: tuple[float, float]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    curve, mean = PointCurve(21), SampleMean()
    mine = errors[:13] if rank == 0 else errors[13:]
    for part in mine.split(4):
        curve.update(part)
        mean.update(part.mean(1))
    assert curve.compute()["auc"].item() == expected[0]
    assert mean.compute().item() == pytest.approx(expected[1], abs=1e-15)
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path) -> None:
    errors = torch.rand(40, 21) * 0.08
    curve, mean = PointCurve(21), SampleMean()
    curve.update(errors)
    mean.update(errors.mean(1))
    expected = (curve.compute()["auc"].item(), mean.compute().item())
    mp.spawn(_process, (str(tmp_path / "store"), errors, expected), nprocs=2)
