"""Small programs beside the gateway: the set-up and the demonstration."""
