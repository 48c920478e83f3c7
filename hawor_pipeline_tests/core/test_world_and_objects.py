"""Metrics of tracks in the world and of held objects against plain float64 code."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from hawor_pipeline.core import metrics
from hawor_pipeline.core.metrics.curves import first_threshold


def turned(track: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return track @ torch.from_numpy(Rotation.random(random_state=seed).as_matrix()).to(track.dtype).mT


def test_global_and_first_frame_alignment() -> None:
    target = torch.randn(130, 21, 3, dtype=torch.float64) * 0.05
    for metric in (metrics.ga_mpjpe, metrics.fa_mpjpe):
        assert metric(turned(target) * 1.7 + 3, target).max() < 1e-9
        assert metric(target * 1.7, target, with_scale=False).min() > 1e-3
    drifting = target + torch.linspace(0, 1, 130, dtype=torch.float64)[:, None, None]
    first, whole = metrics.fa_mpjpe(drifting, target), metrics.ga_mpjpe(drifting, target)
    assert first[0] < 1e-9 < first[-1] and first.mean() > whole.mean()
    same = metrics.world_mpjpe(drifting, target, align_frames=None, chunk=130)
    torch.testing.assert_close(whole, same)
    torch.testing.assert_close(
        metrics.w_mpjpe(drifting, target), metrics.world_mpjpe(drifting, target, align_frames=2, chunk=100)
    )
    torch.testing.assert_close(metrics.wa_mpjpe(drifting, target)[:100], metrics.ga_mpjpe(drifting[:100], target[:100]))


def test_absolute_trajectory_error_equals_a_fit_by_least_squares() -> None:
    target = torch.cumsum(torch.randn(50, 3, dtype=torch.float64), 0)
    pred = turned(target) * 2 + torch.randn(50, 3, dtype=torch.float64) * 0.1
    a, b = pred.numpy() - pred.numpy().mean(0), target.numpy() - target.numpy().mean(0)
    rotation, root_of_sum = Rotation.align_vectors(b, a)  # scipy's own solution of Wahba's problem
    assert metrics.absolute_trajectory_error(pred, target, with_scale=False).item() == pytest.approx(
        root_of_sum / 50**0.5
    )
    scale = (b * rotation.apply(a)).sum() / (a**2).sum()
    expected = np.sqrt((np.square(scale * rotation.apply(a) - b)).sum(1).mean())
    assert metrics.absolute_trajectory_error(pred, target).item() == pytest.approx(expected)


def test_success_rate_counts_vertices_within_a_share_of_the_diameter() -> None:
    target = torch.rand(3, 40, 3) * 0.2
    pred = target + torch.randn(3, 40, 3) * 0.01 + torch.tensor([0.0, 0.0, 0.5])
    diameter = torch.tensor([0.2, 0.3, 0.4])
    roots = pred[:, :10].mean(1), target[:, :10].mean(1)
    found = metrics.success_rate(pred, target, diameter, pred_root=roots[0], target_root=roots[1])
    for i in range(3):
        error = (pred[i] - roots[0][i]) - (target[i] - roots[1][i])
        assert found[i].item() == pytest.approx(
            (error.numpy() ** 2).sum(1).__pow__(0.5).__lt__(0.05 * float(diameter[i])).mean()
        )
    assert metrics.success_rate(pred, target, diameter).tolist() == [0, 0, 0], "without roots the shift counts"
    assert metrics.success_rate(target, target, diameter).tolist() == [1, 1, 1]
    assert metrics.success_rate(pred * torch.nan, target, diameter).isnan().all()
    with pytest.raises(ValueError, match="found one root"):
        metrics.success_rate(pred, target, diameter, pred_root=roots[0])


def test_field_error_compares_distances() -> None:
    hand, thing = torch.rand(2, 30, 3), torch.rand(2, 50, 3)
    moved = hand + torch.randn(2, 30, 3) * 0.05
    to_object, to_hand = metrics.field_error(moved, thing, hand, thing)
    for i in range(2):
        ours, theirs = cKDTree(thing[i]).query(moved[i])[0], cKDTree(thing[i]).query(hand[i])[0]
        assert to_object[i].item() == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-4)
        ours, theirs = cKDTree(moved[i]).query(thing[i])[0], cKDTree(hand[i]).query(thing[i])[0]
        assert to_hand[i].item() == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-4)
    assert metrics.field_error(hand + 1, thing + 1, hand, thing)[0].max() < 1e-6


def test_box_pck_is_pck_in_units_of_the_box() -> None:
    target = torch.rand(4, 21, 2) * 100
    pred, size = target + torch.randn(4, 21, 2) * 10, torch.rand(4) * 100 + 50
    mask = torch.rand(4, 21) < 0.7
    found = metrics.pck_box(pred, target, size, [0.05, 0.1], mask=mask)
    for i in range(4):
        near = (pred[i] - target[i]).norm(dim=-1) / size[i]
        assert found[i].tolist() == pytest.approx(
            [(near[mask[i]] <= limit).float().mean().item() for limit in (0.05, 0.1)]
        )


def test_scale_and_translation_alignment_ignores_exactly_those() -> None:
    cloud = torch.randn(3, 21, 3)
    assert metrics.st_mpjpe(2.5 * cloud - 4, cloud).max() < 1e-5
    assert metrics.st_mpjpe(turned(cloud), cloud).min() > 0.1
    assert metrics.st_mpjpe(torch.zeros(3, 21, 3), cloud).isnan().all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 0.25, width=32), min_size=1, max_size=30),
    st.sampled_from([(0.05, 100), (0.03, 20), (1.0, 3)]),
    st.booleans(),
)
def test_first_threshold_equals_a_search(values: list[float], grid: tuple[float, int], on_grid: bool) -> None:
    limit, steps = grid
    thresholds = torch.linspace(0, limit, steps)
    errors = torch.tensor(values)
    if on_grid:  # the hard case: errors that equal a threshold, or lie next to one
        errors = thresholds[(errors * 1000).long() % steps]
        errors = torch.cat((errors, errors.nextafter(torch.tensor(1.0)), errors.nextafter(torch.tensor(0.0))))
    assert torch.equal(first_threshold(errors, limit, steps), torch.searchsorted(thresholds, errors))


def test_nan_and_infinity_are_said_and_not_raised() -> None:
    target = torch.randn(4, 21, 3)
    pred = target.clone()
    pred[1, 3], pred[2, 0, 0] = torch.nan, torch.inf
    found = metrics.pa_mpjpe(pred, target)
    assert found.isfinite().tolist() == [True, False, False, True] and found[[0, 3]].max() < 1e-6
    assert metrics.mpjpe(pred, target).isfinite().tolist() == [True, False, False, True]
    assert metrics.st_mpjpe(pred, target).isfinite().tolist() == [True, False, False, True]


def test_large_and_small_inputs_take_the_same_lengths() -> None:
    """From some ten thousand numbers on, lengths are taken by component."""
    pred, target = torch.randn(2000, 21, 3), torch.randn(2000, 21, 3)
    pieces = torch.cat([metrics.mpjpe(p, t) for p, t in zip(pred.split(7), target.split(7), strict=True)])
    torch.testing.assert_close(metrics.mpjpe(pred, target), pieces)
    with_gradient = metrics.mpjpe(pred.requires_grad_(), target)
    with_gradient.sum().backward()
    torch.testing.assert_close(with_gradient.detach(), pieces)
    assert pred.grad is not None and pred.grad.isfinite().all()


def test_relative_edge_error_is_a_share_of_each_edge() -> None:
    target = torch.rand(2, 6, 3, dtype=torch.float64)
    edges = torch.tensor([[0, 1], [1, 2], [4, 5]])
    assert metrics.edge_length_error(1.2 * target, target, edges, relative=True).tolist() == pytest.approx([0.2] * 2)
    collapsed = target.clone()
    collapsed[:, 5] = collapsed[:, 4]  # an edge without length has no relative error
    assert metrics.edge_length_error(1.2 * collapsed, collapsed, edges, relative=True).tolist() == pytest.approx(
        [0.2] * 2
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_before_anything_is_subtracted(dtype: torch.dtype) -> None:
    pred, target = (torch.randn(2, 4, 21, 3) * 0.05).to(dtype), (torch.randn(2, 4, 21, 3) * 0.05).to(dtype)
    wide, true = pred.float(), target.float()
    edges = torch.tensor([[0, 1], [1, 2]])
    for metric in (
        metrics.mpjpe, metrics.pa_mpjpe, metrics.mpvpe, metrics.st_mpjpe, metrics.chamfer_distance,
        metrics.acceleration_error, lambda p, t: metrics.jitter(p), lambda p, t: metrics.f_score(p, t, 0.03),
        lambda p, t: metrics.pck(p, t, 0.05), lambda p, t: metrics.edge_length_error(p, t, edges),
    ):  # fmt: skip
        found = metric(pred, target)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, metric(wide, true), equal_nan=True)


def test_metrics_take_predictions_that_carry_gradients() -> None:
    pred, target = torch.randn(3, 21, 3, requires_grad=True), torch.randn(3, 21, 3)
    for metric in (metrics.mpjpe, metrics.mpvpe, metrics.pa_mpjpe, metrics.st_mpjpe):
        (gradient,) = torch.autograd.grad(metric(pred, target).sum(), pred)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0
        (gradient,) = torch.autograd.grad(metric(pred, pred.detach()).sum(), pred)
        assert gradient.isfinite().all(), "at the optimum too"
    assert metrics.chamfer_distance(pred, target).isfinite().all()
    assert metrics.f_score(pred, target, 0.05).isfinite().all()
    assert metrics.contact_deviation(pred, pred, target, target).isfinite().all()
