"""The control plane under /admin/v1: one file a resource."""
