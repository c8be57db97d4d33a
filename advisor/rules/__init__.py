"""Rule sets: one function per field of the plan."""
