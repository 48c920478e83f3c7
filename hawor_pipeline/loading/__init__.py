"""Shards as training data: rows, clips, dataset, data module, augmentation.

Networks belong in `models`; the training loop belongs in `training`.
"""
