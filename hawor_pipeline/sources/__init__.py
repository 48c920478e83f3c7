"""Readers of datasets in their published layouts (ARCTIC, FreiHAND, HO-3D, DexYCB, InterHand2.6M) and of hand models.

A reader returns paths, labels and cameras. Cropping, validity rules and writing belong in `conversion`.
"""
