"""How the server itself is doing: samples of every process, what is wrong now, the alarms that fired, storage."""
