"""The books at size: millions of rows through the drainer's own posting path, then the reports that people run."""
