"""The report of a run. Only lays out what evaluation wrote; loads no torch."""
