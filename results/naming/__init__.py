"""Names: of runs and backends for readers, and of classes in earlier versions."""
