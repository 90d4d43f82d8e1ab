"""The papers' losses and label embeddings as pure functions; they import nothing else of the package."""

IGNORE = 255  # label of pixels that count in no loss and no score
