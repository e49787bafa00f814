"""The networks under study, and what they are fed."""
