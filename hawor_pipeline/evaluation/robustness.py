"""Robustness to imprecise bounding boxes and degraded images: a curve per kind of degradation.

The network really runs on every degraded crop; nothing is modelled. A subset of the clips is enough, the same for every
level, and `none` is measured on it too, so that every ratio is between equals.
"""

from dataclasses import dataclass

import numpy as np

from hawor_pipeline.evaluation.degrade import Degradation, all_degradations, image_change, row_change
from hawor_pipeline.evaluation.hands import read_truth
from hawor_pipeline.evaluation.measure import ComparedHands, measure_hands
from hawor_pipeline.evaluation.predict import Changes, Prediction, choose_device, predict_rows
from hawor_pipeline.evaluation.protocols import find_protocol
from hawor_pipeline.evaluation.recordings import Recording, open_recordings, plan_recordings
from hawor_pipeline.evaluation.summary import Summary
from hawor_pipeline.evaluation.tables import RunIdentity, table_writer, to_numpy
from hawor_pipeline.loading.clips import Clips
from hawor_pipeline.locate import open_hand_models

METRICS = ("mpjpe_mm", "pa_mpjpe_mm", "mpjpe_crop_px", "pck_3d_15mm", "pck_2d_10px", "box_iou", "detected")
_COLUMNS = ("metric", "unit", "value", "ci_low", "ci_high", "n", "sequences", "note")


@dataclass(slots=True)
class _EveryNth:
    """Keeps every n-th clip, counting on from recording to recording."""

    step: int
    seen: int = 0

    def __call__(self, clips: Clips) -> Clips:
        numbers = np.arange(len(clips))
        kept = numbers[(numbers + self.seen) % self.step == 0]
        self.seen += len(clips)
        return clips.take(kept)


def write_robustness(task: Prediction, identity: RunIdentity, samples: int) -> int:
    """Publish the robustness table of a run; return its number of rows.

    About `samples` samples are measured at each level; clips are taken at equal distances over everything.
    """
    setting, where = task.setting, choose_device(task.devices.device)
    model, models = task.checkpoint.model.to(where), open_hand_models(setting.shards_dir, setting.mano_dir)
    recordings = plan_recordings(setting.shards_dir, setting.subjects, setting.views, excluded=setting.excluded)
    step = max(1, sum(recording.counted for recording in recordings) // max(samples, 1))
    mirror = find_protocol(identity.protocol).mirror_allowed
    curves: dict[Degradation, Summary] = {degradation: Summary() for degradation in all_degradations()}
    counters = {degradation: _EveryNth(step) for degradation in curves}
    for recording in recordings:
        shards = open_recordings(setting.shards_dir, [recording], setting.views)
        for degradation, summary in curves.items():
            changes = _changes(degradation, recording, counters[degradation])
            parts, sides = [], []
            for _, annotations, hands in predict_rows(model, models, task, shards, where, changes):
                compared = ComparedHands(read_truth(annotations), hands, models, mirror_allowed=mirror)
                measured = measure_hands(compared, METRICS)
                parts.append({name: measured[name].numpy() for name in METRICS})
                sides.append(to_numpy(annotations["side"]).astype(str))
            if parts:
                metrics = {name: np.concatenate([part[name] for part in parts]) for name in METRICS}
                summary.add_sequence(metrics, {"side": np.concatenate(sides)})
    with table_writer(setting.metrics_dir, "robustness", identity) as writer:
        for degradation, summary in curves.items():
            writer.write(_rows(degradation, summary))
        return writer.rows


def _changes(degradation: Degradation, recording: Recording, keep_clips: _EveryNth) -> Changes:
    name = f"{recording.subject}/{recording.sequence}"
    return Changes(row_change(degradation, name), image_change(degradation, name), keep_clips)


def _rows(degradation: Degradation, summary: Summary) -> dict[str, list]:
    columns = summary.rows()
    level, stratum, metric = columns["level"], columns["stratum"], columns["metric"]
    kept = [i for i in range(len(metric)) if level[i] == "sample" and metric[i] in METRICS]
    about: dict[str, list] = {
        "kind": [degradation.kind] * len(kept),
        "level": [degradation.level] * len(kept),
        "level_unit": [degradation.unit] * len(kept),
        "side": [stratum[i].removeprefix("side=") for i in kept],
    }
    return about | {name: [columns[name][i] for i in kept] for name in _COLUMNS}
