"""From a checkpoint to metric tables: predictions first, everything else computed from them."""
