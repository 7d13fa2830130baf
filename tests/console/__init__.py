"""The playground in a real browser, and the deployment's papers."""
