"""The commands of `weighbridge`, each importing only what it needs."""
