"""The on-disk format of converted data: schema, store, manifests, splits, metadata, quality statistics, WebDataset.

Producing shards belongs in `conversion`; turning them into training tensors belongs in `loading`.
"""
