"""Keys, tokens and secrets: minting, parsing, verifying."""
