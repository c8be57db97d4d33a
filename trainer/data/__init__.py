"""From a file to labelled tokens: reading, layouts, templates, examination.

Everything in trainer may call it, and so may pages; it knows no store and never imports torch.
"""
