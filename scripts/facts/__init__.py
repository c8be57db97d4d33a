"""Facts about models that transformers builds: the files of assets that hold them, and a table of what is traced."""
