"""Pictures for print, drawn from the same rows as the tables: `fedveil plot`."""
