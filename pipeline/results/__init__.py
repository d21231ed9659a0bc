"""Commands over published tables: SQL of DuckDB, in bounded memory."""
