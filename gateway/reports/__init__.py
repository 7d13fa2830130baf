"""Named SQL reports over the auditor's views, and usage written to files."""
