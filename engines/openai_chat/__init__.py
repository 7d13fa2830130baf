"""OpenAI's chat completions, from both sides: what clients speak, and what most providers do."""
