"""The shapes of the API, one file a noun. The spec has its own package, `fitserve.spec`."""
