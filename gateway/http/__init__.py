"""HTTP front: dialects of the data plane, the control plane, operations and pages."""
