"""The commands of the command line: a module per topic, each with `add(commands)`.

Heavy packages are imported by the command that needs them.
"""
