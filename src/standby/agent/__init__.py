"""The process on a host: it replicates the machines of its books, and does what operators ask."""
