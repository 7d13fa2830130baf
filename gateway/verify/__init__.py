"""Whether the books hold: `weighbridge verify`."""
