"""What runs leave behind and what can be said of it: records, metrics, tables. Imports no torch."""
