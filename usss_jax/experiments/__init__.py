"""The paper's tables: its numbers, the rows that reproduce them, and commands that run and report these rows."""
