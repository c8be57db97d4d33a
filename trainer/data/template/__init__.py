"""Chat templates: rendered as transformers renders them, where answers stand in the text, and whether all is said.

The rest of the data room calls it; it imports messages alone, and neither torch nor transformers.
"""
