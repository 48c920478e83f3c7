"""The bounding boxes that a network is given on shards: by the rule of its weights, inside the crops as stored.

Shards store the square of their own rule, and their crops reach `crop_margin` times as far. A rule of the same aspect
is a constant factor; another aspect needs the tight box: that of the ground truth's vertices, as in the conversion.
"""

from dataclasses import replace

import pyarrow as pa
import torch
from torch import Tensor

from hawor_pipeline.core.box_rule import BoxRule
from hawor_pipeline.core.camera import project_distorted
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.hands import read_truth, true_vertices
from hawor_pipeline.evaluation.setting import Setting
from hawor_pipeline.loading.rows import HandRows
from hawor_pipeline.shards.store import StoredBoxes, stored_boxes
from hawor_pipeline.sources.hand_models import HandModels

_ROWS_AT_ONCE = 2048  # whose vertices are in memory


def require_boxes_inside(rule: BoxRule, setting: Setting) -> None:
    """Make sure that the boxes of a rule lie inside the stored crops, whatever the hands' shapes.

    Raises:
        ConfigError: they may not.
    """
    stored = stored_boxes(setting.shards_dir, setting.subjects)
    ratio = rule.largest_ratio(stored.rule)
    if ratio > stored.margin * (1 + 1e-9):
        raise ConfigError(
            f"{setting.shards_dir}: crops reach {stored.margin:g} times as far as boxes of {stored.rule}, and the "
            f"network needs {rule}, up to {ratio:.3g} times as far. Convert the dataset with box_scale "
            f"{stored.rule.scale * ratio:.4g}, or give it other boxes with --box-rule."
        )


def on_boxes(rows: HandRows, table: pa.Table, models: HandModels, stored: StoredBoxes, rule: BoxRule) -> HandRows:
    """Return rows whose boxes follow a rule; centres stay.

    Args:
        rows: of `table`, with the boxes as stored.
        table: annotations of shards.
        models: hand models of the shards.
        stored: boxes of the shards.
        rule: of the network.
    """
    if rule == stored.rule:
        return rows
    if rule.aspect == stored.rule.aspect:
        return replace(rows, box_size_px=rows.box_size_px * (rule.scale / stored.rule.scale))
    starts = range(0, table.num_rows, _ROWS_AT_ONCE)
    sizes = torch.cat([_tight_sizes(table.slice(start, _ROWS_AT_ONCE), models) for start in starts])
    width, height = sizes.unbind(-1)
    ratio = (
        rule.scale * torch.maximum(height, rule.aspect * width)
        / (stored.rule.scale * torch.maximum(height, stored.rule.aspect * width))
    )  # fmt: skip
    # a row without a tight box is not valid, and is read only to fill its clip
    return replace(rows, box_size_px=rows.box_size_px * torch.where(ratio.isfinite(), ratio, 1.0).float())


def _tight_sizes(table: pa.Table, models: HandModels) -> Tensor:
    """Return (N, 2) width and height of the box around the vertices of the ground truth in the image file, px."""
    truth = read_truth(table)
    pixels, projected = project_distorted(true_vertices(models, truth), truth.intrinsics, truth.distortion)
    outside = ~projected[..., None]
    return pixels.masked_fill(outside, -torch.inf).amax(1) - pixels.masked_fill(outside, torch.inf).amin(1)
