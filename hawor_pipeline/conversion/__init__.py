"""One engine that converts datasets to shards: plan, decode, crop, label, publish, ledger, dry run.

Dataset layouts belong in `sources`; the file format belongs in `shards`.
"""
