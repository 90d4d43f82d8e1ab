"""Tables of the paper: its numbers, our rows for them, running them, putting both side by side."""
