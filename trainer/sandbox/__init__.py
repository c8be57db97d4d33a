"""Programs that nobody has read, such as answers of a model, run where they can reach nothing: ``running.ran``."""
