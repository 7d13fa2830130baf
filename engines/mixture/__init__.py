"""The arithmetic of models, sparse mixtures of experts above all: size, work, memory, speed, and what they need."""
