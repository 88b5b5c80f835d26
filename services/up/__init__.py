"""The embedded default: every process of fitserve on one machine, started and stopped as one."""
