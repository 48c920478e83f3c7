"""One view of one recording with the predictions of a run: the input of the video and of the rerun viewer."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hawor_pipeline.errors import ConfigError, DataError, nearest
from hawor_pipeline.evaluation.finished_runs import errors_of, last_run
from hawor_pipeline.inspection.hand_images import SampleHand, predictions_of, require_same_data
from hawor_pipeline.locate import open_hand_models
from hawor_pipeline.shards.store import ShardSet, open_shards
from hawor_pipeline.sources.arctic import SIDES, ArcticRoot
from hawor_pipeline.sources.image_files import list_images


@dataclass(frozen=True, slots=True)
class RecordingView:
    """Hands of one view of a recording, by frame and side, with the errors of a run."""

    name: str
    view: int
    run_id: str
    shards: ShardSet  # only the rows of this view
    row_of: dict[tuple[int, str], int]
    hands: dict[tuple[int, str], SampleHand]
    error_mm: dict[tuple[int, str], float | None]

    @property
    def frames(self) -> range:
        """From the first frame to the last, gaps included."""
        numbers = [frame for frame, _ in self.row_of]
        return range(min(numbers), max(numbers) + 1)

    @property
    def full_size(self) -> tuple[int, int]:
        """(height, width) of the full frames."""
        return self.shards.table["image_height"][0].as_py(), self.shards.table["image_width"][0].as_py()

    def hands_at(self, frame: int) -> list[SampleHand]:
        """Return the hands that have a row at a frame."""
        return [self.hands[frame, side] for side in SIDES if (frame, side) in self.hands]

    def raw_images(self, raw_root: Path) -> dict[int, Path]:
        """Return the raw full frames of this view by number.

        Raises:
            ConfigError: there are none.
        """
        folder = ArcticRoot.locate(raw_root).path / "images" / self.name / str(self.view)
        found = {number: image.path for number, image in list_images(folder).items()}
        if not found:
            raise ConfigError(f"no full frames in {folder}; unpack ARCTIC's images there, or use --crops.")
        return found

    def read_image(self, path: Path) -> np.ndarray:
        """Read a raw frame, BGR.

        Raises:
            DataError: it is damaged, or its size differs from the annotations.
        """
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None or image.shape[:2] != self.full_size:
            found = "not readable" if image is None else f"{image.shape[1]}x{image.shape[0]}"
            height, width = self.full_size
            raise DataError(f"{path}: {found}, expected {width}x{height} as in the shards; get it again.")
        return image


def open_recording(
    sequence: str,
    view: int,
    shards_dir: Path | str,
    mano_dir: Path | str | None,
    metrics_dir: Path | str,
    run_id: str | None = None,
) -> RecordingView:
    """Open one view of a recording with the predictions of a run; arguments as in `video.write_video`."""
    if sequence.count("/") != 1:
        raise ConfigError(f"{sequence!r} is not the name of a recording; expected subject/sequence, s05/box_grab_01.")
    subject, name = sequence.split("/")
    known = sorted(set(open_shards(shards_dir, [subject], ["sequence"]).table["sequence"].to_pylist()))
    if name not in known:
        raise ConfigError(
            f"no recording {sequence!r} in {shards_dir}.{nearest(name, known)} It has {', '.join(known)}."
        )
    shards = open_shards(shards_dir, [subject], None, [name])
    views = shards.column("view")
    if not (views == view).any():
        present = sorted(set(views.tolist()))
        raise ConfigError(f"{sequence} has no view {view}; it has {', '.join(map(str, present))}.")
    part = shards.select(views == view)
    ids = part.table["sample_id"].to_pylist()
    run = last_run(metrics_dir, "predictions", ids) if run_id is None else run_id
    if run is None:
        raise ConfigError(f"no run in {metrics_dir} has predicted {sequence} in view {view}; evaluate one first.")
    require_same_data(metrics_dir, run, part.table)
    predicted = predictions_of(metrics_dir, run, ids)
    if not predicted:
        raise ConfigError(f"run {run!r} has no prediction for {sequence} in view {view}; evaluate it on this subject.")
    models = open_hand_models(shards_dir, mano_dir)
    errors = errors_of(metrics_dir, run, ids)
    keys = list(zip(part.column("frame").tolist(), part.table["side"].to_pylist(), strict=True))
    return RecordingView(
        name=sequence,
        view=view,
        run_id=run,
        shards=part,
        row_of={key: row for row, key in enumerate(keys)},
        hands={
            key: SampleHand(models, part.table.slice(row, 1), predicted.get(ids[row])) for row, key in enumerate(keys)
        },
        error_mm={key: errors.get(ids[row]) for row, key in enumerate(keys)},
    )
