"""The commands of the command line: a module per topic, a function per command under `@command`.

A command parses its arguments, calls one function and prints the result; computation belongs in the other rooms. Heavy
packages are imported by the command that needs them.
"""
