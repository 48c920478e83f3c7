"""The commands of the command line: a module per topic, listed in its `COMMANDS`.

A command parses its arguments, calls one function and prints the result; computation belongs in the other rooms. Heavy
packages are imported by the command that needs them.
"""
