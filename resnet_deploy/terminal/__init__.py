"""What people read: tables and summaries as text, and progress bars. Nothing is computed here but units."""
