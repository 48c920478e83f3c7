"""Predicting hands in a user's video or image folder: bounding boxes, footage, outputs.

Predictions on shards with ground truth belong in `evaluation`.
"""
