"""The network, its checkpoints and the formats of other projects' weights.

Reading data belongs in `loading`; the training loop belongs in `training`.
"""
