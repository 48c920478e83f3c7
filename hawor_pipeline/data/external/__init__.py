"""Other data sets in their published layouts, read into the same shards: a file each, one conversion for all."""
