"""The papers' losses and label embeddings as pure functions; they import nothing else of the package."""
