"""An option: results that follow their inputs by themselves, and when a result counts as old.

The sensor `follow_new_data` is off until somebody starts it in the UI. With it on, what is cheap is made again as soon
as its inputs change; training is not, because it costs hours: the weekly retraining does that.
"""

from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

FOLLOWING = ("dataset_metadata", "quality_stats", "baseline_metrics", "evaluation_metrics", "final_report")
FOLLOWS_INPUTS = dg.AutomationCondition.eager() & ~dg.AutomationCondition.any_deps_missing()
# A weekly schedule that works keeps these fresh; a day and a half of grace for a long training.
FRESH_WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8, hours=12))
EXPECTED_WEEKLY = ("champion",)

follow_new_data = dg.AutomationConditionSensorDefinition(
    "follow_new_data",
    target=dg.AssetSelection.assets(*FOLLOWING),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Option: metadata, quality, evaluation and report are made again when their inputs change.",
)


def with_automation(assets: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The assets with their automation conditions and freshness policies."""

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in FOLLOWING:
            spec = spec.replace_attributes(automation_condition=FOLLOWS_INPUTS)
        if name in EXPECTED_WEEKLY:
            spec = spec.replace_attributes(freshness_policy=FRESH_WEEKLY)
        return spec

    return list(dg.map_asset_specs(described, assets))
