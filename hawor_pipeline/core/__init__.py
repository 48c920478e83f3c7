"""Pure torch: geometry, the MANO hand, losses and metrics. Every stage builds on this room; it imports none of them.

Functions of tensors with a formula and a source belong here. Files, images, training loops, tables and Dagster do not.
"""
