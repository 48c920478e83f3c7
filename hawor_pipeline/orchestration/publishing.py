"""Results of steps on object storage: published where `$HAWOR_REMOTE_URL` says, by the step that made them."""

from pathlib import Path
from typing import Any

from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.remote import publish, remote_url

NOT_PUBLISHED = ("sample", "handoff")  # made anew where they are missing, or of one machine only


def publish_result(log: Any, result: StageResult) -> None:
    """Upload the folders of a result; does nothing without `$HAWOR_REMOTE_URL`.

    Raises:
        ConfigError: the storage cannot be reached. The local result is complete and is reused by the next run.
    """
    for folder in _folders(result):
        url = remote_url(folder)
        if url is None:
            return
        done = publish(folder, url)
        if done.uploaded:
            log.info(f"published {done.url}: {done.uploaded} of {done.files} files, {done.uploaded_bytes / 1e6:.1f} MB")


def _folders(result: StageResult) -> list[Path]:
    """What to publish of a result: its folder, or of the shared tables only the parts of its runs."""
    paths = DataPaths.default()
    if result.path == paths.metrics:
        several = result.info.get("run_ids")  # of baselines: kind to run
        runs = several.values() if several else [result.info["run_id"]]
        return [folder for run in runs for folder in sorted(paths.metrics.glob(f"*/run_id={run}"))]
    folder = result.path if result.path.is_dir() else result.path.parent
    return [] if folder.relative_to(paths.root).parts[0] in NOT_PUBLISHED else [folder]
