"""The papers' losses and label embeddings as pure functions, which import nothing else of the package."""

IGNORE = 255  # label of the pixels that losses and scores ignore
