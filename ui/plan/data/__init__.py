"""The person's own data on the Plan page: kept, asked about, examined and shown as the model reads it."""
