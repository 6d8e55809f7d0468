"""Pictures for print, of the same rows as the tables: `fedveil plot`."""
