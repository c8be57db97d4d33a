"""What each task learns: its rows as tokens, and what transformers' trainer needs besides them."""
