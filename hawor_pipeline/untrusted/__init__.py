"""Loaders that treat files from outside as data: restricted pickles, .npy/.npz, checkpoints, MANO model files.

No code stored in a file ever runs here. What the loaded arrays mean belongs to the caller's room.
"""
