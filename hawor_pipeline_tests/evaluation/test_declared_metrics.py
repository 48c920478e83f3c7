"""One declaration makes a metric; one that nothing computes is an error."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hawor_pipeline.errors import NumericalError
from hawor_pipeline.evaluation import declared_metrics, measure
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS, SAMPLE_METRICS
from hawor_pipeline.evaluation.hands import ground_truth_predictions
from hawor_pipeline.shards.schema import COLUMNS
from hawor_pipeline_tests.evaluation.truth_run import write_truth_run

REPOSITORY = Path(__file__).resolve().parents[2]
TOY = """
    Metric("thumb_tip_mm", "mm", "lower", "wrist-aligned distance of the thumb's tip", _JOINTS,
           lambda m, hands: hands.distances_m[:, 4], title="Error of the thumb's tip"),
"""
# Runs everything that derives from the declarations, after one more was written into their module.
WITH_TOY = """
import sys, types
from importlib.util import find_spec
from pathlib import Path

shards, mano, metrics, toy = sys.argv[1:]
name = "hawor_pipeline.evaluation.declared_metrics"
source = Path(find_spec(name).origin).read_text().replace("METRICS = (\\n", "METRICS = (\\n" + toy, 1)
module = sys.modules[name] = types.ModuleType(name)
exec(compile(source, name, "exec"), module.__dict__)

from docs.generate import metric_tables_page
from hawor_pipeline.evaluation.evaluator import measure_run
from hawor_pipeline.evaluation.schemas import made_from
from hawor_pipeline.evaluation.setting import Setting
from hawor_pipeline.evaluation.tables import read_identity, read_table
from hawor_pipeline.reporting.names import title_of

identity = read_identity(metrics, "predictions", "truth")
setting = Setting.of(shards, mano, metrics, identity.dataset_version, ["s05"], identity.protocol)
overall = measure_run(setting, identity)["metrics"]
samples = read_table(metrics, "samples", "truth")
field = samples.schema.field("thumb_tip_mm")
assert samples["thumb_tip_mm"].null_count == 0, samples["thumb_tip_mm"]
assert max(samples["thumb_tip_mm"].to_pylist()) < 1e-3
assert field.metadata[b"unit"] == b"mm" and b"thumb" in field.metadata[b"meaning"]
assert overall["thumb_tip_mm"] < 1e-3
assert "| `thumb_tip_mm` | mm | lower | wrist-aligned distance of the thumb's tip |" in metric_tables_page()
assert made_from("thumb_tip_mm") == ("joints_cam_m",)
assert title_of("thumb_tip_mm") == "Error of the thumb's tip"
print("ALL DERIVED")
"""


def test_one_declaration_reaches_tables_summary_docs_titles_and_lineage(
    sample_shards: Path, mano_dir: Path, tmp_path: Path
) -> None:
    write_truth_run(tmp_path / "m", sample_shards, mano_dir)
    for table in ("samples", "joints", "summary"):
        shutil.rmtree(tmp_path / "m" / table)
    arguments = [str(sample_shards), str(mano_dir), str(tmp_path / "m"), TOY]
    done = subprocess.run(
        [sys.executable, "-c", WITH_TOY, *arguments], capture_output=True, text=True, cwd=REPOSITORY, timeout=300
    )
    assert "ALL DERIVED" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (lambda m, hands: None, "returned None"),
        (lambda m, hands: hands.distances_m, r"returned shape \(\d+, 21\)"),
        (lambda m, hands: hands.distances_m[:1, 0], r"returned shape \(1,\)"),
    ],
)
def test_a_function_that_returns_no_value_per_sample_is_an_error(
    models, annotations, truth, tracks, monkeypatch, function, found
) -> None:
    monkeypatch.setitem(SAMPLE_METRICS, "mpjpe_mm", replace(SAMPLE_METRICS["mpjpe_mm"], function=function))
    perfect = ground_truth_predictions(models, annotations)
    with pytest.raises(NumericalError, match=f"metric 'mpjpe_mm' is declared, but its function {found}"):
        measure.measure(truth, perfect, models, tracks)


def test_a_declared_metric_that_nothing_computes_is_an_error(
    models, annotations, truth, tracks, monkeypatch, sample_shards: Path, mano_dir: Path, tmp_path: Path
) -> None:
    lost = replace(SAMPLE_METRICS["mpjpe_mm"], name="lost_mm", inputs="nothing")
    monkeypatch.setitem(SAMPLE_METRICS, "lost_mm", lost)
    with pytest.raises(NumericalError, match="'lost_mm'"):
        measure.measure(truth, ground_truth_predictions(models, annotations), models, tracks)
    monkeypatch.delitem(SAMPLE_METRICS, "lost_mm")
    monkeypatch.setitem(ALL_METRICS, "lost_mm", replace(lost, inputs="summary"))
    with pytest.raises(NumericalError, match=r"'lost_mm'.*no row of the summary"):
        write_truth_run(tmp_path, sample_shards, mano_dir)
    assert not list(tmp_path.glob("samples/run_id=*"))


def test_declarations_name_columns_of_shards_and_agree_with_their_units() -> None:
    units = {"mm": "mm", "px": "px", "deg": "deg"}
    for metric in declared_metrics.METRICS:
        assert set(metric.made_from) <= set(COLUMNS), metric.name
        assert metric.made_from or metric.name == "jitter", "only jitter needs no ground truth"
        ending = metric.name.rsplit("_", 1)[-1]
        assert units.get(ending, metric.unit) == metric.unit, metric.name
    assert len(ALL_METRICS) == len(declared_metrics.METRICS), "two metrics have one name"
