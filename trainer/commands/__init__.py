"""What commands of ``python -m trainer`` print: runs while they train and afterwards, and examined data."""
