"""Databricks' and MLflow's dialect: invocations and the serving-endpoints API."""
