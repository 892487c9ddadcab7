"""The application's API: one operation per verb, typed in and out."""
