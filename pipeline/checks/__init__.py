"""What the doctor looks at: one table of checks a module."""
