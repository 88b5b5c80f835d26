"""All of fitserve on one machine: what `fitserve up` and `make run` start.

The embedded Redis (unless FITSERVE_REDIS_URL names another), the API, the prediction service, the reaper and the
workers run as child processes, which log to files; any of them that dies is started again.
"""
