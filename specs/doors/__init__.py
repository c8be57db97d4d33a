"""What stands around every command line: one sentence for whatever goes wrong, arguments, small files, Ctrl-C.

The ``__main__`` of each package calls it, and what runs as a process of its own.
"""
