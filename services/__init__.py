"""The web processes: control API, prediction service, dashboard."""
