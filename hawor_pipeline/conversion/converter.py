"""Conversion as an object, for use from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hawor_pipeline.config import ConversionConfig, build
from hawor_pipeline.conversion.convert import run_job
from hawor_pipeline.conversion.prepare import open_job
from hawor_pipeline.shards.manifest import add_counts
from hawor_pipeline.sources.arctic import ArcticRoot


class ArcticDataConverter:
    """Conversion of ARCTIC as an object, for use from Python.

    Args:
        arctic_root: any folder level of ARCTIC's download.
        output_dir: folder of the shards.
        target_resolution: (height, width) of a crop without its margin.
        num_workers: processes; 0 for none. With any, a script of your own must call this under
            `if __name__ == "__main__":`, because every worker imports it.
        mano_dir: folder of the MANO models; None searches, see `locate.find_hand_models`.
    """

    def __init__(
        self,
        arctic_root: str | Path,
        output_dir: str | Path,
        target_resolution: tuple[int, int] = (256, 256),
        num_workers: int = 4,
        *,
        mano_dir: str | Path | None = None,
    ) -> None:
        self.root = ArcticRoot.locate(arctic_root)
        self.output_dir = Path(output_dir)
        self.settings = build(ConversionConfig, {"target_resolution": target_resolution}, origin="ArcticDataConverter")
        self.num_workers = num_workers
        self.mano_dir = mano_dir

    def convert_dataset(
        self,
        subjects: Sequence[str] | None = None,
        sequences: Sequence[str] | None = None,
        max_sequences_per_subject: int | None = None,
    ) -> dict[str, Any]:
        """Convert and return statistics; sequences that fail are listed, the others are kept.

        Returns:
            total_subjects, total_sequences, total_frames (ground-truth frames), total_samples, valid_samples,
            successful_conversions, failed_conversions, reused_conversions, conversion_errors (sequence to message),
            left_out (reason to samples), seconds.

        Raises:
            ConfigError: root, MANO, subject or sequence not found.
        """
        settings = self.settings.model_copy(update={"max_sequences_per_subject": max_sequences_per_subject})
        job = open_job(self.root, self.output_dir, settings, mano_dir=self.mano_dir, sequences=sequences)
        done = run_job(job, self.root.subjects() if subjects is None else subjects, workers=self.num_workers)
        plans = done.plans
        good = [plan.done[name] for plan in plans for name in plan.done if name not in plan.errors]
        errors = {f"{plan.subject}/{name}": str(error) for plan in plans for name, error in plan.errors.items()}
        return {
            "total_subjects": len(plans),
            "total_sequences": len(good) + len(errors),
            "total_frames": sum(info.ground_truth_frames for info in good),
            "total_samples": sum(info.rows for info in good),
            "valid_samples": sum(info.valid_rows for info in good),
            "successful_conversions": len(good),
            "failed_conversions": len(errors),
            "reused_conversions": sum(plan.reused for plan in plans),
            "conversion_errors": errors,
            "left_out": add_counts(info.left_out for info in good),
            "seconds": done.seconds,
        }
