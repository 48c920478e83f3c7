"""Pure torch: geometry, the MANO hand, losses and metrics. Every other room builds on this one; it knows none of them.

Belongs here: functions of tensors with a formula and a source. Does not: files (but for MANO's), pictures, training
loops, tables, Dagster.
"""
