"""What two models make of the same rows: losses, answers, classes and tags, kept until they can be compared."""
