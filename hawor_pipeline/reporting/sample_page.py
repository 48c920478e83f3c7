"""One page about one sample: crop, ground truth, prediction, and the errors of every run on it."""

from dataclasses import fields
from pathlib import Path

from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.inspection.sample_view import RunOnSample, SampleView
from hawor_pipeline.provenance import atomic_write_text
from hawor_pipeline.reporting import figures
from hawor_pipeline.reporting.names import short_run_name
from hawor_pipeline.reporting.pages import Context, data_uri, render_page
from hawor_pipeline.reporting.shapes import hand_drawing, turnable_mesh
from hawor_pipeline.sources.arctic import SYNTHETIC

HISTORY = {  # short titles: the table has a column for each
    "mpjpe_mm": "Joints",
    "pa_mpjpe_mm": "aligned",
    "mpvpe_mm": "Vertices",
    "global_orient_error_deg": "Wrist",
    "mpjpe_crop_px": "2D",
}


def write_sample_page(view: SampleView, path: Path) -> Path:
    """Write the page (self-contained HTML) and return its path."""
    atomic_write_text(path, render_page("sample.html.j2", _context(view)))
    return path


def _context(view: SampleView) -> Context:
    run = view.run
    pair = {"rank": "", "sample_id": view.sample_id, "mpjpe_mm": 0.0, **view.meshes}
    errors = [joint["error_mm"] for joint in view.joints]
    return {
        **{field.name: getattr(view, field.name) for field in fields(view)},
        "synthetic": view.source == SYNTHETIC,
        "panels": [{"title": title, "uri": data_uri(jpeg)} for title, jpeg in view.panels],
        "hand": hand_drawing(errors),
        "run_name": short_run_name(run.run_id) if run else "",
        "history": [_history_row(other, run) for other in _ordered(view)],
        "history_titles": [(title, SAMPLE_METRICS[name].unit) for name, title in HISTORY.items()],
        "metrics": [(name, run.metrics[name], metric) for name, metric in SAMPLE_METRICS.items()] if run else [],
        "figures": {
            "mesh": turnable_mesh([pair], view.faces),
            **({"track": figures.track_curves(_ordered(view), view.facts["frame"], run)} if run else {}),
        },
    }


def _ordered(view: SampleView) -> list[RunOnSample]:
    """Sort the runs: the one drawn, others, baselines."""
    return sorted(view.history, key=lambda run: (run is not view.run, run.run_id.startswith("baseline-"), run.run_id))


def _history_row(run: RunOnSample, drawn: RunOnSample | None) -> Context:
    return {
        "name": short_run_name(run.run_id),
        "run_id": run.run_id,
        "is_drawn": run is drawn,
        "values": [(run.metrics[name], SAMPLE_METRICS[name].unit) for name in HISTORY],
        "worse_share": run.worse_share,
        "protocol": run.identity.protocol,
        "dataset": run.identity.dataset_version[:12],
    }
