"""Versions of the stages: each is part of its stage's key and, in Dagster, the `code_version` of the stage's assets.

Raise a version with every change of code that changes the stage's results. Finished work of an older version is then
not reused, and Dagster shows that the code changed. Imports nothing, because the web UI loads it at every start.
"""

CONVERTER_VERSION = 8  # bytes of a shard
EXTERNAL_VERSION = 4  # readers of other datasets
IMPORT_VERSION = 1  # bytes of an imported shard
INVENTORY_VERSION = 4
METADATA_VERSION = 2
QUALITY_VERSION = 2
TRAINING_VERSION = "4"
EXPORT_VERSION = "2"
EVALUATION_VERSION = "5"  # metric tables of checkpoints, baselines and comparisons
GALLERY_VERSION = "1"  # images of the best, median and worst samples
GATE_VERSION = "1"  # rule by which a challenger is compared with the champion
REGISTRY_VERSION = "1"  # layout of the registry
REPORT_VERSION = "1"  # not part of a key: a report is stale when its rendered files differ
