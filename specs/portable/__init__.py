"""What a run and an exported script do alike with rows: an export holds the source of these functions."""
