"""The engine that runs on this machine: its environment, its process and the model that ships with the project."""
